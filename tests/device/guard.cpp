// What PyTorch's core asks of a device before it computes there, answered as if there were one CUDA device:
// a guard that has nothing to switch, and hooks that say "yes". `simcuda.py` does the rest.
#include <ATen/detail/CUDAHooksInterface.h>
#include <Python.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>

namespace {

constexpr auto kCUDA = c10::DeviceType::CUDA;

struct OneDeviceGuard : c10::impl::NoOpDeviceGuardImpl<kCUDA> {
  c10::Device exchangeDevice(c10::Device) const override { return {kCUDA, 0}; }
  c10::Device getDevice() const override { return {kCUDA, 0}; }
  c10::Stream getStream(c10::Device device) const noexcept override {
    return c10::Stream(c10::Stream::DEFAULT, device);
  }
  c10::Stream exchangeStream(c10::Stream stream) const noexcept override { return stream; }
  void record(void**, const c10::Stream&, const c10::DeviceIndex, const c10::EventFlag) const override {}
  void block(void*, const c10::Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
};

struct OneDeviceHooks : at::CUDAHooksInterface {
  explicit OneDeviceHooks(at::CUDAHooksArgs) {}
  void init() const override {}
  void deviceSynchronize(c10::DeviceIndex) const override {}
  void setCurrentDevice(c10::DeviceIndex) const override {}
  bool hasCUDA() const override { return true; }
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
  int getNumGPUs() const override { return 1; }
  c10::DeviceIndex deviceCount() const override { return 1; }
  c10::DeviceIndex current_device() const override { return 0; }
  c10::DeviceIndex getCurrentDevice() const override { return 0; }
  c10::DeviceIndex exchangeDevice(c10::DeviceIndex) const override { return 0; }
  c10::DeviceIndex maybeExchangeDevice(c10::DeviceIndex) const override { return 0; }
};

PyModuleDef module = {PyModuleDef_HEAD_INIT, "simguard", nullptr, -1, nullptr};

}  // namespace

C10_REGISTER_GUARD_IMPL(CUDA, OneDeviceGuard);

namespace at {
using OneDeviceHooks = ::OneDeviceHooks;
C10_REGISTER_CLASS(CUDAHooksRegistry, CUDAHooks, OneDeviceHooks)
}  // namespace at

PyMODINIT_FUNC PyInit_simguard() { return PyModule_Create(&module); }
