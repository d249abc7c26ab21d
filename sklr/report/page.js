// Turn the column headers into buttons that sort the table; without JavaScript the best candidates come first.
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  const body = table.tBodies[0];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent;
    button.addEventListener("click", () => sort(column));
    head.replaceChildren(button);
  });

  function sort(column) {
    const descending = heads[column].getAttribute("aria-sort") === "ascending";
    heads.forEach((head) => head.removeAttribute("aria-sort"));
    heads[column].setAttribute("aria-sort", descending ? "descending" : "ascending");
    const rows = [...body.rows].sort((a, b) => compare(a.cells[column], b.cells[column], descending ? -1 : 1));
    body.append(...rows);
  }
}

// Compare numbers by value and texts alphabetically; numbers come before texts in both directions.
function compare(a, b, sign) {
  const [x, y] = [a.dataset.v, b.dataset.v].map((v) => (v === undefined ? NaN : Number(v)));
  if (!Number.isNaN(x) && !Number.isNaN(y)) return sign * (x - y);
  if (Number.isNaN(x) !== Number.isNaN(y)) return Number.isNaN(x) ? 1 : -1;
  return sign * a.textContent.localeCompare(b.textContent);
}
