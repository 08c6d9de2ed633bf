"""The books of a sweep: who waits, who is tried again, what came of whom."""

from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import replace

from selfexplain.sweeps.messages import Done, Failed, Message, Waiting
from selfexplain.sweeps.trial import Outcome, Trial, Watch


class Ledger:
    """Keeps the books of a sweep, and passes on the news.

    Args:
        trials: all of them.
        retries: how often a trial whose attempt failed by accident is tried again.
        watch: is told everything.

    Raises:
        ValueError: two trials have one name.

    Example:
        >>> from selfexplain.sweeps.trial import ignore
        >>> ledger = Ledger([Trial("a", print, None)], retries=1, watch=ignore)
        >>> trial = ledger.next()
        >>> ledger.take(trial, Failed("killed", retry=True)); ledger.next().name
        'a'
        >>> ledger.take(trial, Failed("killed", retry=True)); ledger.finished
        True
    """

    def __init__(self, trials: Sequence[Trial], retries: int, watch: Watch) -> None:
        twice = [name for name, count in Counter(t.name for t in trials).items() if count > 1]
        if twice:
            raise ValueError(f"two trials are called {twice[0]}")
        self.waiting = deque(trials)
        self.retries, self.watch = retries, watch
        self.outcome = Outcome({}, {})
        self._failed_attempts: Counter[str] = Counter()
        self._open = len(trials)
        for trial in trials:
            watch(trial.name, Waiting())

    @property
    def finished(self) -> bool:
        """Whether every trial has come to its end."""
        return self._open == 0

    def next(self) -> Trial | None:
        """Hand out a trial that waits, if there is one."""
        return self.waiting.popleft() if self.waiting else None

    def take(self, trial: Trial, message: Message, *, counts: bool = True) -> None:
        """Take note of news of a trial that was handed out.

        Args:
            trial: that was handed out.
            message: the news.
            counts: whether a failed attempt is one of those that a trial has.
        """
        match message:
            case Done():
                self.outcome.results[trial.name] = message.result
                self._open -= 1
            case Failed():
                self._failed_attempts[trial.name] += counts
                again = message.retry and self._failed_attempts[trial.name] <= self.retries
                message = replace(message, retry=again)
                if again:
                    self.waiting.appendleft(trial)  # it has a checkpoint, the others have nothing
                else:
                    self.outcome.failures[trial.name] = message
                    self._open -= 1
        self.watch(trial.name, message)
