"""Template layers: the assembled weight and its gradients, conversion, identities of growth, folding, members."""

import copy
import itertools
from typing import get_args

import pytest
import torch
import torch.nn.functional as F
from composition.probes import ARCHITECTURES, SHAPES, Probe
from torch import nn
from torch.func import functional_call, vmap
from torch.utils.flop_counter import FlopCounterMode

from callbacks.mixture_growth import (
    TemplateBatchNorm,
    TemplateConv1d,
    TemplateConv2d,
    TemplateLinear,
    convert_to_templates,
    copy_member,
    fold_,
    grow,
    load_member,
    member,
    plan_layers,
    set_phase,
)
from callbacks.mixture_growth.assembly import TemplateBlock, assemble, assemble_plainly
from callbacks.mixture_growth.conversion import convert, describe, initialise
from callbacks.mixture_growth.members import Mode, new_coefficients, write_growth
from callbacks.warm_start import second_factors, shrink_perturb
from framework.errors import UserError
from framework.optim import OptimizerConfig, build_optimizer, parameter_groups
from framework.protocols import HasMembers, HasWeightParts
from modules.vision.wide_resnet import WideResNet

S4D_LAYERS = {"net.backbone.blocks.*.mix.0": "in", "net.head": "in"}


def mlp(widths=(40, 128, 128, 128, 10), bias=False):
    layers = []
    for a, b in itertools.pairwise(widths[:-1]):
        layers += [nn.Linear(a, b, bias=bias), nn.BatchNorm1d(b), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(*widths[-2:], bias=bias))


def settled_norms(model):
    """Running statistics and affine parameters that are not those of the start."""
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.copy_(torch.randn(module.running_mean.shape, generator=generator) / 4)
            module.running_var.copy_(0.5 + torch.rand(module.running_var.shape, generator=generator))
            with torch.no_grad():
                module.weight.copy_(0.5 + torch.rand(module.weight.shape, generator=generator))
                module.bias.copy_(torch.randn(module.bias.shape, generator=generator) / 4)
    return model


def linear(inputs=6, outputs=8, **settings):
    return TemplateLinear(nn.Linear(inputs, outputs), **settings)


class Depthwise(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv1d(1, 6, 3, padding=1)
        self.deep = nn.Conv1d(6, 6, 3, padding=1, groups=6)
        self.act = nn.PReLU(6)
        self.mix = nn.Conv1d(6, 5, 1)
        self.head = nn.Linear(5, 3)

    def forward(self, x):
        return self.head(self.mix(self.act(self.deep(self.stem(x)))).mean(-1))


def squeeze_and_excite():
    from timm.models.resnet import BasicBlock, ResNet

    return ResNet(BasicBlock, [1, 1, 1, 1], in_chans=1, num_classes=4, stem_width=8, channels=(8, 16, 16, 16),
                  zero_init_last=False, block_args={"attn_layer": "se"})  # fmt: skip


WHOLE = {
    "mlp": (mlp, (7, 40)),
    "mlp with biases": (lambda: mlp((5, 8, 6, 4, 3), bias=True), (7, 5)),
    "odd widths": (lambda: mlp((5, 7, 9, 3, 2), bias=True), (7, 5)),
    "sine": (ARCHITECTURES["sine"], (7, 16)),
    "wide resnet": (lambda: WideResNet(10, 1, 4, 1, second_norm=False), (2, 1, 8, 8)),
    "wide resnet, both norms": (lambda: WideResNet(10, 1, 4, 1), (2, 1, 8, 8)),
    "timm resnet": (ARCHITECTURES["resnet"], (2, 1, 16, 16)),
    "squeeze and excite": (squeeze_and_excite, (2, 1, 16, 16)),
    "depthwise, prelu": (Depthwise, (3, 1, 9)),
}


class TestAssembly:
    def test_one_hot_coefficients_give_the_hand_built_matrix(self):
        weights = {}
        for sets in ((0, 1, 0, 1), (0, 1, 1, 0)):
            layer = linear(kind="both", member_sets=sets)
            layer.phase = 2
            torch.manual_seed(0)
            layer.reset_parameters()
            s = layer.banks()
            chosen = (0, 1, 1, 0)
            with torch.no_grad():
                for alpha, one in zip(layer.alphas(), chosen, strict=True):
                    alpha.copy_(F.one_hot(torch.tensor(one), 2))
            b = [s[bank][one] for bank, one in zip(sets, chosen, strict=True)]
            expected = torch.vstack([torch.hstack([b[0], b[2]]), torch.hstack([b[3], b[1]])])
            assert torch.equal(layer.whole(), expected)
            assert torch.equal(layer.weight, expected)
            weights[sets] = expected
        first, second = weights.values()
        assert torch.equal(first[:4, :3], second[:4, :3])
        assert torch.equal(first[4:, 3:], second[4:, 3:])
        assert not torch.equal(first[:4, 3:], second[:4, 3:])
        assert not torch.equal(first[4:, :3], second[4:, :3])

    def test_first_layer_is_stacked_and_the_last_side_by_side(self):
        first, last = linear(kind="out"), linear(kind="in")
        for layer, join in ((first, torch.vstack), (last, torch.hstack)):
            layer.reset_parameters()
            blocks = [torch.einsum("t,toi->oi", a, s) for a, s in zip(layer.alphas(), layer.banks(), strict=True)]
            torch.testing.assert_close(layer.whole(), join(blocks))
            for phase in (0, 1):
                layer.phase = phase
                torch.testing.assert_close(layer.weight, blocks[phase])

    @pytest.mark.parametrize("shape", [(4, 6), (5, 7), (4, 6, 3), (4, 7, 3), (4, 6, 3, 2), (5, 6, 3, 2)])
    @pytest.mark.parametrize("sets", [(0, 1, 0, 1), (0, 1, 1, 0)])
    def test_the_fast_form_equals_the_plain_one_with_its_gradients(self, shape, sets):
        generator = torch.Generator().manual_seed(0)
        up, left = (shape[0] + 1) // 2, (shape[1] + 1) // 2
        places = ((0, up, 0, left), (up, shape[0], left, shape[1]), (0, up, left, shape[1]), (up, shape[0], 0, left))
        blocks = [
            TemplateBlock(bank, number, *place) for number, (bank, place) in enumerate(zip(sets, places, strict=True))
        ]
        sizes = (3, up, left, *shape[2:])
        tensors = [torch.randn(sizes, generator=generator, dtype=torch.float64) for _ in range(2)]
        tensors += [torch.randn(3, generator=generator, dtype=torch.float64) for _ in range(4)]
        g = torch.randn(shape, generator=generator, dtype=torch.float64)
        results = []
        for form in (assemble, assemble_plainly):
            live = [tensor.clone().requires_grad_() for tensor in tensors]
            weight = form(live[:2], live[2:], blocks, shape)
            results.append([weight, *torch.autograd.grad((weight * g).sum(), live)])
        for fast, plain in zip(*results, strict=True):
            torch.testing.assert_close(fast, plain, atol=1e-12, rtol=1e-12)
        live = tuple(tensor.clone().requires_grad_() for tensor in tensors)
        assert torch.autograd.gradcheck(lambda *t: assemble(t[:2], t[2:], blocks, shape), live)

    def test_the_templates_gradient_sums_over_their_blocks(self):
        layer = linear().double()
        layer.reset_parameters()
        layer.phase = 2
        x = torch.randn(5, 6, dtype=torch.float64)
        layer(x).pow(3).sum().backward()
        weight = layer.whole().detach().requires_grad_()
        F.linear(x, weight, layer.bias_grown).pow(3).sum().backward()
        g, a = weight.grad, layer.alphas()
        expected = a[0].view(2, 1, 1) * g[:4, :3] + a[2].view(2, 1, 1) * g[:4, 3:]
        assert (layer.templates_0.grad - expected).abs().max() < 1e-6
        assert abs(a[3].grad[1] - (g[4:, :3] * layer.templates_1[1]).sum()) < 1e-6

    def test_it_is_assembled_anew_whenever_a_value_may_have_changed(self):
        layer = linear().eval()
        layer.reset_parameters()
        layer.phase = 2
        with torch.no_grad():
            kept = layer.effective_weight()
            assert layer.effective_weight() is kept
            layer.alpha_0.mul_(2.0)
            assert layer.effective_weight() is not kept
            kept = layer.effective_weight()
            layer.templates_1.data.mul_(2.0)
            layer.eval()
            assert not torch.equal(layer.effective_weight(), kept)
            layer.phase = 1
            assert layer.effective_weight().shape == (4, 3)
            layer.load_state_dict({k: torch.zeros_like(v) for k, v in layer.state_dict().items()})
            assert not layer.effective_weight().any()
            assert layer.double().effective_weight().dtype == torch.float64
        first = layer.effective_weight()
        assert first.requires_grad
        assert layer.effective_weight() is not first, "a graph must not be used by two backward passes"

    @pytest.mark.parametrize("training", [False, True])
    def test_no_stale_weight_after_a_fused_step(self, training):
        layer = linear().train(training)
        layer.reset_parameters()
        layer.phase = 2
        x = torch.randn(3, 6)
        optimizer = torch.optim.SGD(layer.parameters(), lr=0.1, fused=True)

        def now():
            with torch.no_grad():
                return layer(x)

        for _ in range(2):
            before = now()
            loss = layer(x).square().sum()
            now()  # another pass without gradients before the step
            loss.backward()
            optimizer.step()
            assert not torch.equal(now(), before)
            torch.testing.assert_close(now(), F.linear(x, layer.whole(), layer.bias))

    def test_copies_do_not_share_what_was_kept(self):
        layer = linear().eval()
        layer.reset_parameters()
        with torch.no_grad():
            layer.effective_weight()
        assert copy.deepcopy(layer)._kept is None
        assert layer._kept is not None

    def test_vmap_and_functional_call(self):
        layers = [linear() for _ in range(3)]
        for layer in layers:
            layer.reset_parameters()
            layer.phase = 2
        stacked = {
            k: torch.stack([dict(m.named_parameters())[k] for m in layers]) for k, _ in layers[0].named_parameters()
        }
        x = torch.randn(4, 6)
        together = vmap(lambda p: functional_call(layers[0], p, (x,)))(stacked)
        torch.testing.assert_close(together, torch.stack([layer(x) for layer in layers]))
        with torch.no_grad():
            together = vmap(lambda p: functional_call(layers[0], p, (x,)))(stacked)
            torch.testing.assert_close(together, torch.stack([layer(x) for layer in layers]))

    def test_autocast_leaves_the_templates_precision(self):
        layer = linear(64, 64)
        layer.reset_parameters()
        layer.phase = 2
        exact = layer.whole().detach()
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(layer.whole(), exact)
            y = layer(torch.randn(3, 64))
        assert y.dtype == torch.bfloat16
        y.sum().backward()
        assert layer.templates_0.grad.dtype == torch.float32


class TestNumbers:
    def test_parameters_of_the_perceptron(self):
        model = mlp()
        assert sum(p.numel() for n, p in model.named_parameters() if p.ndim == 2) == 39168
        assert convert_to_templates(model) == {
            **{"0": "out", "1": "channels", "3": "both", "4": "channels", "6": "both", "7": "channels", "9": "in"}
        }
        templates = {n: p.numel() for n, p in model.named_parameters() if "templates" in n}
        assert sum(templates.values()) == 45568
        assert templates["3.templates_0"] + templates["3.templates_1"] == 128 * 128
        assert templates["0.templates_0"] + templates["0.templates_1"] == 2 * 40 * 128
        assert sum(p.numel() for n, p in model.named_parameters() if n.startswith("3.alpha")) == 4 * 2

    def test_a_member_takes_a_quarter_of_the_hidden_layers_flops(self):
        model = mlp()
        convert_to_templates(model)
        counts = {}
        for phase in (0, 1, 2):
            set_phase(model, phase)
            with FlopCounterMode(display=False) as counter:
                model[3](torch.randn(16, 128 if phase == 2 else 64, requires_grad=True)).sum().backward()
            counts[phase] = counter.get_total_flops()
        assert counts[0] == counts[1]
        assert abs(counts[0] / counts[2] - 0.25) < 0.0025

    @pytest.mark.parametrize("kind", ["both", "in", "out"])
    def test_initialisations(self, kind):
        torch.manual_seed(0)
        plain = nn.Linear(300, 200)
        for init, std in (
            ("kaiming", (2 / (300 if kind == "out" else 150)) ** 0.5),
            ("official", None),
            ("layer", 0.03),
        ):
            layer = TemplateLinear(plain, kind, init=init, deviation=0.03)
            layer.reset_parameters()
            found = float(layer.templates_0.detach().std())
            if init == "official":  # the fan-in of a tensor is all but its first dimension
                std = (2 / layer.templates_0[0].numel()) ** 0.5
            if init == "layer":
                found = float(layer.block(0).detach().std())
            assert abs(found / std - 1) < 0.02
            gram = torch.stack(layer.alphas()).detach()
            torch.testing.assert_close(gram.T @ gram, torch.eye(2))

    def test_parts_fans_gains_options_and_factors(self):
        conv = TemplateConv2d(nn.Conv2d(6, 8, 3), "both")
        conv.reset_parameters()
        assert isinstance(conv, HasWeightParts)
        assert isinstance(conv, HasMembers)
        first, second = conv.weight_parts()
        assert (first.name, first.fan_in, first.fan_out, first.bias) == ("templates_0", 27, 36, "bias_0")
        torch.manual_seed(1)
        with torch.no_grad():
            conv.templates_1.normal_()
        wide = TemplateLinear(nn.Linear(600, 600), "both")
        wide.reset_parameters()
        with torch.no_grad():
            wide.templates_1.normal_()
        assert abs(float(wide.block(1).std()) / wide.weight_parts()[1].gain - 1) < 0.01
        assert second.gain == pytest.approx(float(conv.alpha_1.norm()))
        model = mlp()
        convert_to_templates(model)
        groups = parameter_groups(nn.ModuleList([model]), OptimizerConfig(weight_decay=0.1))
        decays = {name: group["weight_decay"] for group in groups for name in group["names"]}
        assert all((decay == 0) == ("alpha" in name) for name, decay in decays.items())
        assert any("alpha" in name for name in decays)

    def test_shrinking_leaves_the_coefficients(self):
        model = mlp((5, 8, 6, 3))
        convert_to_templates(model)
        grow(model)
        before = {name: value.clone() for name, value in model.named_parameters()}
        assert len(second_factors(model)) == 2 + 4 + 2
        shrink_perturb(model, 0.5, 0.0)
        for name, value in model.named_parameters():
            if "alpha" in name:
                assert torch.equal(value, before[name])
            elif value.requires_grad:
                assert torch.equal(value, 0.5 * before[name])
        shrink_perturb(model, 0.5, 0.1)  # fresh weights of an edited model come from its layers


class TestConversion:
    @pytest.mark.parametrize("name", ["mlp", "sine", "vit", "resnet", "gpt2"])
    def test_the_architectures_by_themselves(self, name):
        model = Probe(name)
        names = [n for n, _ in model.named_parameters()]
        kinds = convert_to_templates(model)
        if name in ("vit", "gpt2"):
            pairs = ("fc1", "fc2") if name == "vit" else ("c_fc", "c_proj")
            ends = {n.rpartition(".")[2]: kind for n, kind in kinds.items()}
            assert ends == {pairs[0]: "out", pairs[1]: "in"}
            assert len(kinds) == 4
            assert all(".mlp." in n for n in kinds)
        else:
            layers = [k for k in kinds.values() if k != "channels"]
            assert (layers[0], layers[-1], set(layers[1:-1])) == ("out", "in", {"both"})
        x = torch.randn(5, *SHAPES.get(name, (16,)))
        for phase in (0, 1, 2):
            set_phase(model, phase)
            model.zero_grad()
            model(x).square().sum().backward()
            used = {n for n, p in model.named_parameters() if p.grad is not None}
            assert used == {n for n, p in model.named_parameters() if p.requires_grad}, "DDP would wait for the others"
        fold_(model)
        assert [n for n, _ in model.named_parameters()] == names

    def test_ties_stay(self):
        model = Probe("gpt2")
        grow_from = convert_to_templates(model)
        assert grow_from
        lm = model.net.lm
        assert lm.lm_head.weight is lm.transformer.wte.weight
        grow(model)
        fold_(model)
        assert lm.lm_head.weight is lm.transformer.wte.weight
        assert type(lm.transformer.h[0].mlp.c_fc).__name__ == "Conv1D"
        assert lm.transformer.h[0].mlp.c_fc.weight.shape == (16, 64)

    def test_what_is_in_the_way_is_named(self):
        with pytest.raises(UserError, match=r"blocks\.0\.norm\.norm \(LayerNorm\): it couples channels") as caught:
            convert_to_templates(Probe("s4d"))
        assert "Name layers with 'in', 'out' or 'both'" in str(caught.value)
        assert "net.backbone.blocks.0.layer (S4DLayer)" in str(caught.value)
        with pytest.raises(UserError, match=r"0 \(LSTM\): recurrent layers"):
            convert_to_templates(nn.Sequential(nn.LSTM(4, 4), nn.Linear(4, 2)))
        with pytest.raises(UserError, match=r"it has 2 groups"):
            convert_to_templates(nn.Sequential(nn.Conv1d(4, 4, 1), nn.Conv1d(4, 4, 1, groups=2), nn.Conv1d(4, 2, 1)))
        tied = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2))
        tied[2].weight = tied[1].weight
        with pytest.raises(UserError, match=r"1 \(Linear\): its weight is tied"):
            convert_to_templates(tied)
        with pytest.raises(UserError, match=r"0 \(BatchNorm1d\) comes before 1"):
            convert_to_templates(nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 4), nn.Linear(4, 2)))
        with pytest.raises(UserError, match="two layers or more"):
            convert_to_templates(nn.Linear(4, 4))
        model = mlp()
        convert_to_templates(model)
        with pytest.raises(UserError, match="made of templates already"):
            convert_to_templates(model)

    def test_explicit_layers(self):
        model = Probe("s4d")
        kinds = convert_to_templates(model, S4D_LAYERS)
        assert kinds == {f"net.backbone.blocks.{i}.mix.0": "in" for i in (0, 1)} | {"net.head": "in"}
        x = torch.randn(5, 16)
        for phase in (0, 1):
            set_phase(model, phase)
            assert model(x).shape == (5, 4)
        for wrong, said in (
            ({"net.hed": "in"}, r"'net\.hed' names nothing.*net\.head"),
            ({"net.head": "inputs"}, "one of both, in, out"),
            ({"blocks.0.layer": "in"}, "cannot be converted"),
            ({"net.head": "in"}, "made of templates already"),
        ):
            with pytest.raises(UserError, match=said):
                plan_layers(model, wrong)
        with pytest.raises(UserError, match="tied to another"):
            plan_layers(Probe("gpt2"), {"lm_head": "in"})

    def test_input_and_output_layers(self):
        class TwoHeads(nn.Module):
            def __init__(self):
                super().__init__()
                self.one, self.two = nn.Linear(4, 6), nn.Linear(4, 6)
                self.body = nn.Linear(6, 8)
                self.left, self.right = nn.Linear(8, 2), nn.Linear(8, 3)

            def forward(self, x):
                h = self.body(torch.relu(self.one(x) + self.two(x))).relu()
                return torch.cat([self.left(h), self.right(h)], -1)

        model = TwoHeads().double().eval()
        kinds = plan_layers(model, None, ["one", "two"], ["left", "right"])
        assert kinds == {"one": "out", "two": "out", "body": "both", "left": "in", "right": "in"}
        convert_to_templates(model, None, ["one", "two"], ["left", "right"])
        check_sum(model, torch.randn(3, 4, dtype=torch.float64))

    def test_settings_are_refused_by_name(self):
        for settings, said in (
            ({"templates": 0}, r"^templates: 0"),
            ({"member_template_sets": [0, 0, 1, 1]}, r"\[0, 1, 0, 1\] or \[0, 1, 1, 0\]"),
            ({"init": "xavier"}, r"^init: 'xavier'.*kaiming"),
        ):
            with pytest.raises(UserError, match=said):
                convert_to_templates(mlp(), **settings)
        with pytest.raises(UserError, match=r"mixture_growth\.layers: 2 has 1 inputs"):
            convert_to_templates(nn.Sequential(nn.Linear(4, 1), nn.ReLU(), nn.Linear(1, 3)), {"2": "in"})
        for unconverted in (grow, lambda model: member(model, 0), lambda model: load_member(model, 0, {})):
            with pytest.raises(UserError, match="convert it first"):
                unconverted(mlp())

    def test_a_frozen_layer_stays_frozen(self):
        model = mlp((5, 8, 6, 3))
        model[0].weight.requires_grad_(False)
        convert_to_templates(model)
        for phase in (0, 1, 2):
            set_phase(model, phase)
            assert not any(p.requires_grad for p in model[0].parameters())
            assert any(p.requires_grad for p in model[3].parameters())
        assert not fold_(model)[0].weight.requires_grad

    def test_torch_encoder_layers_compute_the_same_in_evaluation(self):
        layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        assert convert_to_templates(layer) == {"linear1": "out", "linear2": "in"}
        x = torch.randn(2, 5, 8)
        for phase in (0, 1, 2):
            set_phase(layer, phase)
            layer.train()
            expected = layer(x).detach()
            layer.eval()
            with torch.inference_mode():  # its fast path reads weights and biases
                torch.testing.assert_close(layer(x), expected, atol=1e-5, rtol=1e-5)

    def test_flattened_channels_of_odd_number_are_refused_when_met(self):
        model = nn.Sequential(nn.Conv1d(1, 3, 1), nn.Flatten(), nn.Linear(15, 4), nn.Linear(4, 2))
        convert_to_templates(model)
        with pytest.raises(UserError, match="their number must be even"):
            model(torch.randn(2, 1, 5))

    def test_applying_twice_is_once(self):
        model = mlp()
        described = describe(model, plan_layers(model))
        assert convert(model, described)
        initialise(model)
        before = {name: (id(p), p.clone()) for name, p in model.named_parameters()}
        assert convert(model, described) == []
        assert all(id(p) == before[n][0] and torch.equal(p, before[n][1]) for n, p in model.named_parameters())


def check_sum(model, x, tolerance=1e-10):
    """Grown with zero coefficients, the logits are the sum of the members', and they are the folded ones."""
    members = []
    for phase in (0, 1):
        set_phase(model, phase)
        members.append(model(x).detach())
        torch.testing.assert_close(fold_(copy.deepcopy(model))(x), members[-1], atol=tolerance, rtol=0)
    assert (members[0] - members[1]).abs().max() > 1e-3
    grow(model, "zero")
    assert (model(x) - members[0] - members[1]).abs().max() <= tolerance


class TestGrowth:
    @pytest.mark.parametrize("name", WHOLE)
    def test_zero_is_the_sum_of_the_members(self, name):
        make, shape = WHOLE[name]
        torch.manual_seed(0)
        model = make()
        convert_to_templates(model)
        settled_norms(model).double().eval()
        x = torch.randn(shape, dtype=torch.float64)
        check_sum(model, x)
        grow(model, "orthogonal")
        plain = fold_(copy.deepcopy(model))
        torch.testing.assert_close(plain(x), model(x), atol=1e-12, rtol=1e-12)
        assert not any(word in key for key in plain.state_dict() for word in ("templates", "alpha", "member"))
        make().double().load_state_dict(plain.state_dict(), strict=True)

    def test_in_single_precision_it_is_nearly_the_sum(self):
        torch.manual_seed(0)
        model = mlp().eval()
        convert_to_templates(model)
        check_sum(model, torch.randn(64, 40), 1e-4)

    @pytest.mark.parametrize("name", ["vit", "gpt2", "s4d"])
    def test_folding_what_is_partly_converted(self, name):
        model = Probe(name)
        convert_to_templates(model, S4D_LAYERS if name == "s4d" else None)
        model.eval()
        x = torch.randn(5, *SHAPES.get(name, (16,)))
        for phase in (0, 1, 2):
            if phase == 2:
                grow(model)
            else:
                set_phase(model, phase)
            torch.testing.assert_close(fold_(copy.deepcopy(model))(x), model(x), atol=1e-5, rtol=1e-5)

    def test_orthogonal_all_with_four_templates(self):
        layer = linear(8, 8, templates=4)
        layer.reset_parameters()
        with torch.no_grad():
            for alpha in layer.alphas():
                alpha.normal_()
        new_coefficients(layer, "orthogonal_all", 0.5)
        a = [alpha.detach().double() for alpha in layer.alphas()]
        for new, old in ((2, 0), (2, 1), (3, 0), (3, 1), (3, 2)):
            assert abs(float(a[new] @ a[old] / a[new].norm() / a[old].norm())) < 1e-5
        assert a[2].norm() == pytest.approx(0.5, abs=1e-6)

    def test_official_orthogonal_skips_block_two(self):
        layer = linear(8, 8)
        layer.reset_parameters()
        before = [alpha.detach().clone() for alpha in layer.alphas()]
        new_coefficients(layer, "orthogonal")
        after = [alpha.detach() for alpha in layer.alphas()]
        assert all(torch.equal(after[j], before[j]) for j in (0, 1, 2))
        stack = torch.stack(before[:3])
        scatter = stack.T @ stack
        values, vectors = torch.linalg.eigh(scatter)
        assert abs(float(vectors[:, 0] @ after[3])) == pytest.approx(1.0, abs=1e-5)
        assert float(after[3] @ scatter @ after[3]) == pytest.approx(float(values[0]), abs=1e-6)

    def test_the_other_modes(self):
        def after(mode, scale=1.0):
            torch.manual_seed(0)
            layer = linear(8, 8)
            layer.reset_parameters()
            before = torch.stack([alpha.detach().clone() for alpha in layer.alphas()])
            new_coefficients(layer, mode, scale)
            return before, torch.stack([alpha.detach() for alpha in layer.alphas()])

        for mode in get_args(Mode):
            before, now = after(mode)
            assert torch.equal(now[:2], before[:2])
        assert not after("zero")[1][2:].any()
        before, now = after("none")
        assert torch.equal(before, now)
        before, now = after("copy", 0.3)
        noise = now[2:] - before[:2]
        torch.testing.assert_close(noise.norm(dim=1), torch.tensor([0.3, 0.3]))
        assert (noise > 0).all()
        assert not torch.equal(noise[0], noise[1])
        now = after("random", 0.2)[1][2:]
        assert ((now >= 0) & (now < 0.2)).all()
        assert now.any()
        with pytest.raises(UserError, match=r"^mode: 'cpoy' is not one of orthogonal"):
            write_growth(mlp(), "cpoy")

    def test_options_of_growing(self):
        model = mlp((5, 8, 6, 3))
        convert_to_templates(model)
        with torch.no_grad():
            model[0].templates_0.mul_(7.0)
        grow(model, "orthogonal", freeze_members=True, normalise=True)
        assert model[0].templates_0.norm().item() == pytest.approx(float(model[0].templates_1.norm()), rel=1e-5)
        flags = {n.rpartition(".")[2]: p.requires_grad for n, p in model[3].named_parameters()}
        assert flags == {"templates_0": True, "templates_1": True, "alpha_0": False, "alpha_1": False} | {
            "alpha_2": True,
            "alpha_3": True,
        }

    def test_copying_a_member(self):
        torch.manual_seed(0)
        model = settled_norms(mlp((5, 9, 6, 3), bias=True)).eval()
        convert_to_templates(model)
        x = torch.randn(4, 5)
        even = mlp((5, 8, 6, 3), bias=True).eval()
        convert_to_templates(even)
        copy_member(even, 0.0)
        set_phase(even, 0)
        first = even(x)
        set_phase(even, 1)
        assert torch.equal(even(x), first)
        copy_member(even, 0.01)
        assert 0.005 < float((even[3].templates_1 - even[3].templates_0).std()) < 0.015
        copy_member(model, 0.01)  # an odd width is cut

    def test_banks_are_one_set_of_templates(self):
        model = nn.Sequential(*[nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 2)])
        convert_to_templates(model, banks=True)
        assert model[1].templates_0 is model[2].templates_0 is model[3].templates_0
        assert model[0].templates_0 is not model[1].templates_0
        assert not torch.equal(model[1].alpha_0, model[2].alpha_0)
        copied = copy.deepcopy(model)
        assert copied[1].templates_1 is copied[3].templates_1
        model.double().eval()
        check_sum(model, torch.randn(3, 4, dtype=torch.float64))
        scale = model[1].templates_0.norm().item(), model[1].templates_1.norm().item()
        with torch.no_grad():
            model[1].templates_0.mul_(4.0)
        grow(model, normalise=True)
        assert model[1].templates_0.norm().item() == pytest.approx(scale[1])
        state = {k: v for k, v in fold_(copy.deepcopy(model)).state_dict().items()}
        assert not torch.equal(state["1.weight"], state["2.weight"])
        with pytest.raises(UserError, match="shares templates"):
            load_member(model, 0, member(model, 1))


class TestMembers:
    @pytest.mark.parametrize("decay", [0.0, 0.1])
    @pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
    def test_training_one_leaves_every_bit_of_the_other(self, optimizer, decay):
        torch.manual_seed(0)
        model = mlp((5, 8, 6, 3))
        convert_to_templates(model)
        x, y = torch.randn(32, 5), torch.randint(0, 3, (32,))
        args = {"momentum": 0.9} if optimizer == "sgd" else {}
        config = OptimizerConfig(optimizer, lr=0.1, weight_decay=decay, args=args)
        for phase in (0, 1):
            set_phase(model, phase)
            idle = {name: value.clone() for name, value in model.state_dict().items() if f"_{phase}" not in name}
            before = {name: value.clone() for name, value in model.state_dict().items() if name not in idle}
            step = build_optimizer(nn.ModuleList([model]), config)
            for _ in range(3):
                step.zero_grad()
                F.cross_entropy(model(x), y).backward()
                step.step()
            now = model.state_dict()
            assert all(torch.equal(now[name], value) for name, value in idle.items())
            assert not any(torch.equal(now[name], value) for name, value in before.items())
            assert any("running_mean" in name for name in before)

    @pytest.mark.parametrize("index", [0, 1])
    def test_a_member_is_a_plain_network_of_half_the_width(self, index):
        torch.manual_seed(0)
        model = settled_norms(mlp((5, 7, 6, 3), bias=True)).eval()
        convert_to_templates(model)
        widths = (5, 4, 3, 3) if index == 0 else (5, 3, 3, 3)
        half = mlp(widths, bias=True).eval()
        half.load_state_dict(member(model, index), strict=True)
        x = torch.randn(4, 5)
        set_phase(model, index)
        torch.testing.assert_close(half(x), model(x), atol=1e-6, rtol=1e-6)

    def test_loading_a_plain_one_corrects_the_templates_least(self):
        torch.manual_seed(0)
        model, half = mlp((5, 8, 6, 3), bias=True).eval(), settled_norms(mlp((5, 4, 3, 3), bias=True)).eval()
        convert_to_templates(model)
        before = {name: value.clone() for name, value in model.state_dict().items()}
        load_member(model, 1, half.state_dict())
        set_phase(model, 1)
        x = torch.randn(4, 5)
        torch.testing.assert_close(model(x), half(x), atol=1e-5, rtol=1e-5)
        now = model.state_dict()
        assert all(torch.equal(now[name], before[name]) for name in now if "_0" in name)
        # the least-norm solution of alpha · (S + D) = B, for each entry on its own
        alpha = model[3].alpha_1.detach()
        missing = half[3].weight - torch.einsum("t,toi->oi", alpha, before["3.templates_1"])
        expected = torch.linalg.pinv(alpha[None]) @ missing.reshape(1, -1)
        change = (now["3.templates_1"] - before["3.templates_1"]).flatten(1)
        torch.testing.assert_close(change, expected.detach(), atol=1e-6, rtol=1e-5)

    def test_loading_members_of_two_checkpoints(self):
        models = []
        for seed in (0, 1):
            torch.manual_seed(seed)
            models.append(settled_norms(mlp((5, 8, 6, 3), bias=True)).eval())
            convert_to_templates(models[-1])
        torch.manual_seed(2)
        whole = mlp((5, 8, 6, 3), bias=True).eval()
        convert_to_templates(whole)
        x = torch.randn(4, 5)
        for index, model in enumerate(models):
            written = load_member(whole, index, model.state_dict(), source=0)
            assert "3.templates_0" in written
            set_phase(whole, index)
            assert torch.equal(whole(x), model(x))
        grow(whole, "zero")
        torch.testing.assert_close(whole(x), models[0](x) + models[1](x), atol=1e-5, rtol=1e-5)
        with pytest.raises(UserError, match=r"3\.templates_0 is .* was expected|9\.weight|0\.weight"):
            load_member(whole, 0, mlp((5, 6, 6, 3), bias=True).state_dict())
        with pytest.raises(UserError, match="is missing in the loaded state"):
            load_member(whole, 0, {})

    def test_what_is_shared_is_loaded_only_when_asked(self):
        first, second = Probe("vit"), Probe("vit")
        for model in (first, second):
            convert_to_templates(model)
        load_member(second, 0, first.state_dict())
        assert not torch.equal(second.net.patch_embed.proj.weight, first.net.patch_embed.proj.weight)
        load_member(second, 0, first.state_dict(), shared=True)
        assert torch.equal(second.net.patch_embed.proj.weight, first.net.patch_embed.proj.weight)

    def test_classes(self):
        model = Depthwise()
        convert_to_templates(model)
        assert isinstance(model.stem, TemplateConv1d)
        assert type(fold_(model).deep) is nn.Conv1d
        assert fold_(model).deep.groups == 6
        model = WideResNet(10, 1, 4, 1)
        convert_to_templates(model)
        assert isinstance(model.norm, TemplateBatchNorm)
        assert isinstance(model.conv, TemplateConv2d)

    @pytest.mark.parametrize("mode", ["circular", "reflect"])
    def test_padding_stride_and_dilation_of_convolutions(self, mode):
        torch.manual_seed(0)
        plain = nn.Conv2d(4, 6, 3, stride=2, padding=2, dilation=2, padding_mode=mode)
        layer = TemplateConv2d(plain, "both", bias_bound=0.2)
        layer.reset_parameters()
        layer.phase = 2
        folded = layer.folded()
        x = torch.randn(2, 4, 9, 9)
        assert torch.equal(folded(x), layer(x))
        assert folded.padding_mode == mode
        assert layer(x).shape == plain(x).shape
