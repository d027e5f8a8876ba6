"""Chameleon: pairs that the backbone writes about a user give two directions, by which its MLP outputs are edited.

Zhang et al., NAACL Findings 2025 (arXiv 2503.01048). The source is central and shares one set of directions among the
users of a group. Federated, only sketches of hidden states and probe weights are sent: our extension.
"""

from dataclasses import dataclass

import torch
from torch import nn

from configs.seeds import derive_seed
from strategies.bounds import check_at_least, check_written
from strategies.client_tools import ClientTools, Context, UserTexts
from strategies.method import BackboneShape, Fit, FitResult, Method, Tensors, TrainRequest, TrainResult, travelling
from strategies.prompting.synthetic_pairs import differing, representative_places, write_insights, write_pairs
from strategies.spacing import read_sites
from strategies.steering.directions import begin_probes, best_probes, ccs_loss, top_directions, train_probes
from strategies.steering.edited_mlps import EditedMlps
from strategies.steering.group_search import FEWEST_PAIRS, FEWEST_SENT, SHARED_EDIT, GroupSearch, group_edit

_PRIVATE, _SELECTED = "private_edit", "private_items.place"
_CHECKED = 4
"""Batches of the user's own items on which the edit's effect on the loss is measured."""


@dataclass(frozen=True)
class PairStates:
    """What one user's pairs give."""

    personal: torch.Tensor
    """Hᴾ, the states after personal answers, [pairs, layers, d]."""
    neutral: torch.Tensor
    """Hᴺ, likewise."""
    made: int
    """Pairs that were written; those with equal answers are not in Hᴾ and Hᴺ."""


class Chameleon(Method):
    """x ← x + ⟨x, θᴾ⟩θᴾ, then x ← x − ⟨x, θᴺ⟩θᴺ at the MLP outputs of the layers with the lowest CCS loss.

    θᴾ is the first right singular vector of the states after personal answers, θᴺ a probe that tells them from neutral
    ones. Questions are preceded by the user's selected items, as in the source.
    """

    name = "chameleon"
    trains_newcomers = False
    constant_shapes = False

    def __init__(
        self,
        items: int,
        layers: int,
        strength: float,
        ccs_normalise: bool,
        ccs_steps: int,
        restarts: int,
        sketch_rows: int,
        insight_tokens: int,
        answer_tokens: int,
        embedder: str,
        federated: bool,
        rounds: int,
        seed: int,
    ) -> None:
        """Take the settings; those that the source leaves open are marked ○.

        Args:
            items: Items of a user's history that are selected; the source has at most 10.
            layers: ○ Layers that are edited; a backbone with fewer has them all edited.
            strength: α; 0 is the control, the same prompts without an edit.
            ccs_normalise: ○ Subtract each kind's mean before the search, as Burns et al. do: the difference of the
                means, which a probe would find at once, is gone.
            ccs_steps: Steps of a probe, in all rounds together; Burns et al. have 1,000.
            restarts: Probes per layer that start at random; the one with the lowest loss counts.
            sketch_rows: m, rows of a user's states that are sent per layer.
            insight_tokens: ○ Maximum length of an insight.
            answer_tokens: ○ Maximum length of a synthetic answer.
            embedder: ○ `backbone`, or a sentence embedder (`fedperfit backbone list`).
            federated: One set of directions for all, from the collective users; else each user's own, and nothing is
                sent.
            rounds: Of stage 1; those after the opening train the probes.
            seed: The run's seed.

        Raises:
            ValueError: A setting is outside its range.
        """
        check_at_least(1, items=items, layers=layers, ccs_steps=ccs_steps, restarts=restarts, sketch_rows=sketch_rows)
        check_at_least(1, insight_tokens=insight_tokens, answer_tokens=answer_tokens)
        self.items, self.layers, self.strength, self.normalise = items, layers, strength, ccs_normalise
        self.steps, self.restarts, self.rows = ccs_steps, restarts, sketch_rows
        self.tokens = insight_tokens, answer_tokens
        self.embedder, self.federated, self.rounds, self.seed = embedder, federated, rounds, seed
        self.first_round = 0 if federated else None

    def check(self, backbone: BackboneShape) -> None:
        """Refuse a backbone whose MLPs are not modules of their own, and texts that are too long for it."""
        if not backbone.mlps:
            raise ValueError("chameleon: the blocks of this backbone have no MLP that can be edited")
        check_written(backbone, insight_tokens=self.tokens[0], answer_tokens=self.tokens[1])

    def server_init(self, backbone: BackboneShape) -> Tensors:
        """Return what the opening adds up, all 0, if it is sent."""
        return GroupSearch.begin(self.rows, backbone.blocks, backbone.hidden) if self.federated else {}

    def server_send(self, state: Tensors, user: int | None) -> Tensors:
        """Return the probes and means, or a newcomer's edit."""
        return group_edit(state, self.layers) if user is None else travelling(state)

    def server_aggregator(self, state: Tensors, _round_number: int) -> GroupSearch:
        """Return the aggregator of a phase: sketches and means, then probes."""
        generator = torch.Generator().manual_seed(derive_seed(self.seed, "chameleon", "probes"))
        return GroupSearch(state, self.rows, self.restarts, generator, self.layers)

    def client_attach(self, model: nn.Module, backbone: BackboneShape) -> EditedMlps:
        """Attach the edit to every MLP, inactive."""
        return EditedMlps(model, backbone.hidden, self.strength)

    def client_train(self, _adapter: EditedMlps, request: TrainRequest) -> TrainResult:
        """In the opening write pairs and return their sketch and sums; later train the probes on the same pairs."""
        state = request.client_state
        if not state:
            client = request.fit.client
            states = self._states(client, representative_places(client, self.items, self.embedder))
            state = {
                "private_states.P": states.personal,
                "private_states.N": states.neutral,
                "private_states.made": torch.tensor(float(states.made)),
            }
        # Sums and a sketch of one or two pairs would give their states away.
        count = len(state["private_states.P"])
        count = count if count >= FEWEST_SENT else 0
        result = FitResult(len(request.fit.client.history), 0)
        if request.round == 0:
            personal, neutral, made = (state[f"private_states.{part}"] for part in ("P", "N", "made"))
            shared = GroupSearch.opening(personal[:count], neutral[:count], made, self.rows)
            return TrainResult(shared, result, state)
        personal, neutral = (state[f"private_states.{kind}"] for kind in "PN")
        if self.normalise:
            personal, neutral = (
                value - request.shared[f"shared_means.{kind}"] for value, kind in ((personal, "P"), (neutral, "N"))
            )
        theta, b = request.shared["shared_probes.theta"], request.shared["shared_probes.b"]
        losses = torch.zeros_like(b)
        if count:
            # The losses are those of the group's probes: a client's own fit anything after steps on few pairs.
            losses = ccs_loss(theta, b, personal, neutral)
            theta, b, _ = train_probes(theta, b, personal, neutral, max(1, self.steps // self.rounds))
        # A client whose opening was lost has written its pairs only now.
        written_now = None if request.client_state else state
        return TrainResult(GroupSearch.probes(theta, b, losses, count), result, written_now)

    def client_personalize(self, adapter: EditedMlps, shared: Tensors, fit: Fit) -> tuple[Tensors, FitResult] | None:
        """Find the user's own directions; federated, the group's stay, and the user's items precede questions."""
        client = fit.client
        selected = representative_places(client, self.items, self.embedder)
        private: Tensors = {_SELECTED: torch.tensor(selected, dtype=torch.int32)}
        if self.federated:
            self.client_load(adapter, shared, private)
            return private, FitResult(0, 0, figures=self._effect(adapter, fit))
        states = self._states(client, selected)
        count = len(states.personal)
        figures = {"pairs": float(count), "discarded": float(states.made - count)}
        figures["few_pairs"] = float(count < FEWEST_PAIRS)
        if not count:
            return private, FitResult(0, 0, figures=figures)
        layers, personal, neutral, losses = self._search(states)
        edit = {"layer": layers.to(torch.int16), "P": personal, "N": neutral}
        private |= {f"{_PRIVATE}.{part}": value for part, value in edit.items()}
        figures |= {f"ccs_loss.{layer}": float(loss) for layer, loss in enumerate(losses)}
        figures |= {f"layer.{place}": float(layer) for place, layer in enumerate(layers)}
        self.client_load(adapter, shared, private)
        return private, FitResult(0, 0, figures=figures | self._effect(adapter, fit))

    def client_context(self, adapter: EditedMlps, client: UserTexts, _source: str) -> Context:
        """Return the user's selected items."""
        return Context(items=[client.history[place] for place in adapter.selected])

    def client_load(self, adapter: EditedMlps, shared: Tensors, private: Tensors | None) -> None:
        """Set the user's directions, or the group's, or none, and the places of the user's selected items."""
        adapter.selected = private[_SELECTED].tolist() if private else []
        prefix, held = (SHARED_EDIT, shared) if self.federated else (_PRIVATE, private or {})
        if f"{prefix}.layer" in held:
            adapter.edit(*(held[f"{prefix}.{part}"] for part in ("layer", "P", "N")))
        else:
            nothing = torch.zeros(0, adapter.personal.shape[1])
            adapter.edit(torch.zeros(0), nothing, nothing)

    def shared_parameters(self, backbone: BackboneShape) -> int:
        """Return the numbers that a probe round sends: θ, b and a loss for each restart and layer, and a count."""
        return self.restarts * backbone.blocks * (backbone.hidden + 2) + 1 if self.federated else 0

    def private_parameters(self, backbone: BackboneShape) -> int:
        """Return 2d + 1 for each edited layer, if the user has directions of its own; places of items not counted."""
        return 0 if self.federated else min(self.layers, backbone.blocks) * (2 * backbone.hidden + 1)

    def _states(self, client: ClientTools, selected: list[int]) -> PairStates:
        """Write pairs about selected items and return the MLP outputs after their answers."""
        items = [client.history[place] for place in selected]
        insights = write_insights(client, items, self.tokens[0])
        pairs = write_pairs(client, items, insights, self.tokens[1])
        different = differing(pairs)
        texts = [f"{pair.before} {answer}" for pair in different for answer in (pair.personal, pair.neutral)]
        # Some text tells the shape of the states if there is no pair.
        states = client.states(texts or [""], "mlp")[: len(texts)]
        return PairStates(states[0::2], states[1::2], len(pairs))

    def _search(self, states: PairStates) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the chosen layers [n], θᴾ and θᴺ there [n, d], and every layer's CCS loss (none for few pairs)."""
        directions = top_directions(states.personal)
        blocks = directions.shape[0]
        if len(states.personal) < FEWEST_PAIRS:
            layers = torch.tensor(read_sites(f"{self.layers} spread", blocks))
            return layers, directions[layers], top_directions(states.neutral)[layers], torch.zeros(0)
        personal, neutral = states.personal, states.neutral
        if self.normalise:
            personal, neutral = personal - personal.mean(dim=0), neutral - neutral.mean(dim=0)
        generator = torch.Generator().manual_seed(derive_seed(self.seed, "chameleon", "probes"))
        theta, b = begin_probes(self.restarts, blocks, directions.shape[1], generator)
        theta, _, losses = train_probes(theta, b, personal, neutral, self.steps)
        probes, lowest = best_probes(theta, losses)
        layers = lowest.argsort(stable=True)[: self.layers].sort().values
        return layers, directions[layers], probes[layers], lowest

    def _effect(self, adapter: EditedMlps, fit: Fit) -> dict[str, float]:
        """Return the loss on the user's own answers with the edit and without it, nats per token."""
        after = fit.loss(_CHECKED)
        strength, adapter.strength = adapter.strength, 0.0
        before = fit.loss(_CHECKED)
        adapter.strength = strength
        return {"loss_before": before, "loss_after": after}
