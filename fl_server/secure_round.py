"""The server's part in secure aggregation: it passes keys and shares on, and takes the masks off a round's sum.

Clients that fail on the way drop out. While at least `secure.threshold` are left, the sum of the others can be read;
with fewer nothing can, and the round fails. Nothing that the server holds is one client's update.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from configs.errors import RunFailed
from configs.files import append_line
from configs.schema import RunConfig
from fl_server.exchange import ClientTask
from fl_server.record.reply import ClientReply
from strategies.aggregation.robust import Update
from strategies.codecs import plus
from strategies.method import Method, Tensors
from strategies.secure.keys import SEALED_BYTES, agree, is_valid, join, key_pair_of
from strategies.secure.ring import Ring
from strategies.wire import MASKED, Phase, secure_values

Check = Callable[[ClientReply], ClientReply]
"""Returns a reply, with a fault if it cannot be used."""
Ask = Callable[[ClientTask, Sequence[int], Check], Iterator[ClientReply]]
"""Sends a task to users, and yields their checked and recorded replies, one by one."""


class MaskedSumLost(RunFailed):
    """Too few users helped, or what they sent does not fit: the sum cannot be read."""


class TooFewUsers(MaskedSumLost):
    """Too few users are left, and no sum has been opened yet."""


class SecureRound:
    """One round's keys, shares and sum."""

    def __init__(
        self,
        config: RunConfig,
        method: Method,
        number: int,
        start: Tensors,
        examples: Mapping[int, int],
        ask: Ask,
        opened: Path,
    ) -> None:
        """Start a round.

        Args:
            config: The run's config, with `secure.aggregation`.
            method: For the wire form.
            number: The round.
            start: Where the clients start from.
            examples: Every user's examples at the roll call, by partition id.
            ask: As `Ask`.
            opened: A file that remembers whose sums were opened, since clients help with one set of users a round.
        """
        self._config, self._method, self._number, self._ask = config.secure, method, number, ask
        self._opened = opened
        self._begin = method.to_wire(start)
        self._examples = examples
        self._keys: dict[int, bytes] = {}
        self._shares: dict[int, dict[int, bytes]] = {}
        self._most = 1
        self._opening = False

    @property
    def expected(self) -> Tensors:
        """A reply's tensors: one of bytes."""
        count = sum(value.numel() for value in self._begin.values())
        return {MASKED: torch.zeros(count * self._config.bytes, dtype=torch.uint8)}

    def open(self, cohort: Sequence[int], drop: Callable[[ClientReply], None]) -> list[int]:
        """Exchange keys and shares, and return the users who are asked to train.

        Args:
            cohort: Partition ids.
            drop: Called with the reply of every user who drops out.

        Raises:
            TooFewUsers: Too few users are left.
        """
        self._check_enough(len(cohort), "can take part", len(cohort))
        self._most = max(self._examples[user] for user in cohort)
        for reply in self._ask(ClientTask(self._number, Phase.KEYS), cohort, self._checked_keys):
            if reply.error or reply.fault:
                drop(_failed(reply))
            else:
                self._keys[reply.user] = reply.secure[reply.user]
        self._check_enough(len(self._keys), "sent keys", len(cohort))
        values = secure_values(self._keys)
        task = ClientTask(self._number, Phase.SHARES, values_for=lambda _user: values)
        for reply in self._ask(task, list(self._keys), self._checked_shares):
            if reply.error or reply.fault:
                drop(_failed(reply))
            else:
                self._shares[reply.user] = dict(reply.secure)
        self._check_enough(len(self._shares), "sent shares", len(self._keys))
        return sorted(self._shares)

    def _checked_keys(self, reply: ClientReply) -> ClientReply:
        keys = reply.secure.get(reply.user, b"")
        valid = len(reply.secure) == 1 and len(keys) == 64 and is_valid(keys[:32]) and is_valid(keys[32:])
        # Clients refuse a round in which two users have the same keys.
        return _faulty(reply, None if valid and keys not in self._keys.values() else "no valid keys of its own")

    def _checked_shares(self, reply: ClientReply) -> ClientReply:
        valid = set(reply.secure) == self._keys.keys() - {reply.user}
        valid = valid and all(len(share) == SEALED_BYTES for share in reply.secure.values())
        return _faulty(reply, None if valid else "no share for every other user")

    def values_for(self, user: int) -> dict[str, object]:
        """Return what a user is sent with its training: the others' shares for it, and the largest weight."""
        sealed = {sender: shares[user] for sender, shares in self._shares.items() if sender != user}
        return {**secure_values(sealed), "most_examples": self._most}

    def pool(self, updates: Iterable[Update]) -> Tensors:
        """Return the mean of the updates, weighted by examples, in the tensors that the method averages.

        Args:
            updates: The masked ones, with the examples that the clients report.

        Raises:
            TooFewUsers: Too few users sent an update.
            MaskedSumLost: Too few answered the unmask request, or what they sent does not fit.
        """
        ring = Ring(self._config.bytes, self._config.limit, len(self._keys))
        count = sum(value.numel() for value in self._begin.values())
        total, weight, alive = np.zeros(count, np.uint32), 0.0, []
        for update in updates:
            total = ring.add(total, ring.unpack(update.shared[MASKED].numpy()))
            weight += min(1.0, update.examples / self._most)
            alive.append(update.user)
        self._check_enough(len(alive), "sent an update", len(self._keys))
        self._opening = True
        self._remember(alive)
        total = self._unmask(ring, total, alive, sorted(self._shares.keys() - {*alive}))
        change = torch.from_numpy(ring.decode_sum(total, len(alive)) / weight).float()
        parts = change.split([self._begin[name].numel() for name in sorted(self._begin)])
        names = sorted(self._begin)
        shaped = {name: part.reshape(self._begin[name].shape) for name, part in zip(names, parts, strict=True)}
        return self._method.from_wire(plus(self._begin, shaped))

    def _remember(self, alive: Sequence[int]) -> None:
        """Note whose sum is opened, before it is."""
        text = self._opened.read_text(encoding="utf-8") if self._opened.is_file() else ""
        lines = [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
        before = next((line["users"] for line in lines if line["round"] == self._number), None)
        if before is None:
            append_line(self._opened, {"round": self._number, "users": sorted(alive)})
        elif before != sorted(alive):
            raise MaskedSumLost(
                f"round {self._number}: before the interruption the sum of users {', '.join(map(str, before))} was "
                "opened, and clients refuse to help with that of others; run it anew"
            )

    def _unmask(self, ring: Ring, total: np.ndarray, alive: list[int], dropped: list[int]) -> np.ndarray:
        """Take off b_u of those whose update came, and s_uv between them and those who dropped out."""
        request = {"alive": alive, "dropped": dropped}
        shares: dict[int, list[bytes]] = {user: [] for user in (*alive, *dropped)}
        task = ClientTask(self._number, Phase.UNMASK, values_for=lambda _user: request)

        def checked(reply: ClientReply) -> ClientReply:
            return _faulty(reply, None if set(reply.secure) <= shares.keys() else "shares that were not asked for")

        answered = 0
        for reply in self._ask(task, alive, checked):
            if not (reply.error or reply.fault):
                answered += 1
                for user, share in reply.secure.items():
                    shares[user].append(share)
        self._check_enough(answered, "answered the unmask request", len(self._keys))
        for user, received in shares.items():
            self._check_enough(len(received), f"can read what user {user} sent for unmasking", len(self._keys))
        needed = self._config.users_needed(len(self._keys))
        secrets = {}
        for user, received in shares.items():
            try:
                secrets[user] = join(received[:needed])
            except ValueError as error:
                text = f"round {self._number}: secure aggregation: shares of user {user}'s secret are wrong: {error}"
                raise MaskedSumLost(text) from None
        for user in alive:
            total = ring.add(total, ring.mask(secrets[user], len(total)), -1)
        for gone in dropped:
            private = secrets[gone]
            if key_pair_of(private).public != self._keys[gone][32:]:
                raise MaskedSumLost(f"round {self._number}: secure aggregation: shares of user {gone}'s key are wrong")
            for user in alive:
                pairwise = ring.mask(agree(private, self._keys[user][32:], "mask"), len(total))
                # `user` added it if the other's id is higher.
                total = ring.add(total, pairwise, -1 if gone > user else 1)
        return total

    def _check_enough(self, users: int, did: str, began: int) -> None:
        needed = self._config.users_needed(began)
        if users < needed:
            who = "1 user" if users == 1 else f"{users} users"
            lost = MaskedSumLost if self._opening else TooFewUsers
            raise lost(f"round {self._number}: {who} {did}, secure.threshold needs {needed}")


def _faulty(reply: ClientReply, fault: str | None) -> ClientReply:
    """Return a reply with this fault, if it has neither a fault nor an error yet."""
    return replace(reply, fault=fault) if fault and not (reply.error or reply.fault) else reply


def _failed(reply: ClientReply) -> ClientReply:
    """Return a reply that cannot be used as that of a client that failed."""
    return replace(reply, error=reply.error or reply.fault, report=None)
