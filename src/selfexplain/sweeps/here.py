"""The simplest scheduler: trials one after another, in this very process."""

from collections.abc import Sequence

from selfexplain.errors import BrokenOffError, InputError
from selfexplain.sweeps.ledger import Ledger
from selfexplain.sweeps.messages import Done, Failed, Started, Step
from selfexplain.sweeps.trial import Outcome, Trial, Watch, ignore


class InThisProcess:
    """Runs trials one after another where they are asked for.

    Bad input fails a trial and the next begins; any other exception, and what would break off the
    others too (a full disk), ends the sweep, as it would end a run by itself.

    Example:
        >>> trials = [Trial(str(n), lambda n, on_step: n * n, n) for n in (2, 3)]
        >>> InThisProcess().run(trials).complete()
        {'2': 4, '3': 9}
    """

    apart = False

    def run(self, trials: Sequence[Trial], watch: Watch = ignore) -> Outcome:
        """Carry out all trials, in order."""
        ledger = Ledger(trials, retries=0, watch=watch)
        while (trial := ledger.next()) is not None:
            _carry_out(trial, ledger)
        return ledger.outcome


def _carry_out(trial: Trial, ledger: Ledger) -> None:
    def on_step(done: int, total: int) -> None:
        ledger.take(trial, Step(done, total))

    ledger.take(trial, Started("this process"))
    try:
        result = trial.function(trial.argument, on_step)
    except BrokenOffError:  # so would be the next
        raise
    except InputError as error:
        ledger.take(trial, Failed(str(error)))
    else:
        ledger.take(trial, Done(result))
