"""Claim and write many trials in one transaction on a database server; the only direct use of Optuna's tables.

Optuna's public interface needs a transaction for every number of a trial, and has none that claims several trials. The
tables are used through Optuna's own models, for a database server only.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from datetime import UTC, datetime
from typing import Any

import optuna
from optuna.distributions import distribution_to_json
from optuna.storages import RDBStorage
from optuna.storages._rdb import models
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import func, select, update

from sklr.search.storage.codec import CLAIM, OUTCOME, Claim, claim_from


class Tables:
    """The trials of one study.

    Parameters
    ----------
    study : optuna.Study
    storage : RDBStorage
        The storage that has the study.
    """

    def __init__(self, study: optuna.Study, storage: RDBStorage):
        self.storage, self.study_id = storage, study._study_id

    @contextmanager
    def transaction(self) -> Iterator[Any]:
        """Open a transaction that locks the study's row, so that no other process claims or ends a trial meanwhile."""
        session = self.storage.scoped_session()
        try:
            study = models.StudyModel
            own = study.study_id == self.study_id
            # an update that changes nothing takes the lock, in SQLite too
            session.execute(update(study).where(own).values(study_name=study.study_name))
            yield session
            session.commit()
        except BaseException:
            session.rollback()
            raise
        finally:
            session.close()

    def claims(self, session: Any) -> dict[int, tuple[TrialState, Claim, bool]]:
        """Return for every trial with a claim, by id: its state, the claim, and whether it has an outcome."""
        trial, attr = models.TrialModel, models.TrialUserAttributeModel
        of_study = select(trial.trial_id, trial.state, attr.value_json).join(attr, attr.trial_id == trial.trial_id)
        rows = session.execute(of_study.where(trial.study_id == self.study_id, attr.key == CLAIM)).all()
        claims = {row[0]: _claim_from(row[2]) for row in rows}
        ended = select(attr.trial_id).join(trial, attr.trial_id == trial.trial_id)
        ended = ended.where(trial.study_id == self.study_id, attr.key == OUTCOME)
        done = set(session.execute(ended).scalars())
        return {
            trial_id: (state, claim, trial_id in done)
            for trial_id, state, _ in sorted(rows, key=lambda row: row[0])
            if (claim := claims[trial_id]) is not None
        }

    def add(self, session: Any, trials: Sequence[FrozenTrial]) -> list[int]:
        """Insert trials as they are; return their ids."""
        rows: list[Any]
        query = select(func.count()).select_from(models.TrialModel)
        first = session.execute(query.where(models.TrialModel.study_id == self.study_id)).scalar()
        rows = [
            models.TrialModel(
                study_id=self.study_id,
                number=first + i,
                state=trial.state,
                datetime_start=trial.datetime_start,
                datetime_complete=trial.datetime_complete,
            )
            for i, trial in enumerate(trials)
        ]
        session.add_all(rows)
        session.flush()
        for row, trial in zip(rows, trials, strict=True):
            self._add_params(session, row.trial_id, trial)
            self._add_results(session, row.trial_id, trial)
        return [row.trial_id for row in rows]

    def _add_params(self, session: Any, trial_id: int, trial: FrozenTrial) -> None:
        session.add_all(
            models.TrialParamModel(
                trial_id=trial_id,
                param_name=name,
                param_value=trial.distributions[name].to_internal_repr(value),
                distribution_json=distribution_to_json(trial.distributions[name]),
            )
            for name, value in trial.params.items()
        )

    def _add_results(self, session: Any, trial_id: int, trial: FrozenTrial) -> None:
        if trial.value is not None:
            value, kind = models.TrialValueModel.value_to_stored_repr(trial.value)
            session.add(models.TrialValueModel(trial_id=trial_id, objective=0, value=value, value_type=kind))
        for step, mean in trial.intermediate_values.items():
            at_epoch = models.TrialIntermediateValueModel
            stored, of_kind = at_epoch.intermediate_value_to_stored_repr(mean)
            session.add(
                at_epoch(trial_id=trial_id, step=step, intermediate_value=stored, intermediate_value_type=of_kind)
            )
        session.add_all(
            models.TrialUserAttributeModel(trial_id=trial_id, key=key, value_json=json.dumps(value))
            for key, value in trial.user_attrs.items()
        )

    def end(self, session: Any, trial_id: int, trial: FrozenTrial, known: Collection[str]) -> bool:
        """End a running trial with its state and results; return False, and change nothing, if it is not running.

        `known` are the user attributes that it already has.
        """
        if not self.set_state(session, trial_id, trial.state):
            return False
        fresh = copy(trial)
        fresh.user_attrs = {key: value for key, value in trial.user_attrs.items() if key not in known}
        self._add_results(session, trial_id, fresh)
        return True

    def set_state(self, session: Any, trial_id: int, state: TrialState) -> bool:
        """End a running trial; return False if it is not running."""
        trial = models.TrialModel
        now = datetime.now(UTC).replace(tzinfo=None)
        running = update(trial).where(trial.trial_id == trial_id, trial.state == TrialState.RUNNING)
        ended = session.execute(running.values(state=state, _datetime_complete_utc=now))
        return ended.rowcount == 1

    def take(self, session: Any, trial_id: int, claim: Claim) -> None:
        """Start a waiting trial, such as the copy that Optuna's retry callback makes of one whose worker died."""
        row = session.get(models.TrialModel, trial_id)
        row.state, row.datetime_start = TrialState.RUNNING, datetime.now()
        attr: Any = models.TrialUserAttributeModel.find_by_trial_and_key(row, CLAIM, session)
        attr.value_json = json.dumps(claim)

    def beat(self, session: Any, trial_ids: Sequence[int]) -> None:
        """Write a heartbeat for these trials."""
        heart = models.TrialHeartbeatModel
        known = set(session.execute(select(heart.trial_id).where(heart.trial_id.in_(trial_ids))).scalars())
        session.execute(update(heart).where(heart.trial_id.in_(known)).values(heartbeat=func.current_timestamp()))
        session.add_all(heart(trial_id=trial_id) for trial_id in trial_ids if trial_id not in known)


def _claim_from(value_json: str) -> Claim | None:
    """Return the claim; None if it is not as sklr wrote it: then the candidate is trained again."""
    try:
        return claim_from({CLAIM: json.loads(value_json)})
    except ValueError:
        return None
