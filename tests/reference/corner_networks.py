"""The corner detectors, from the description of the authors' networks and from their own parameter names alone."""

import re

import torch
import torch.nn.functional as F


def running_maximum(x, dim, backwards):
    lines = list(x.unbind(dim))
    if backwards:
        lines.reverse()
    out = [lines[0]]
    for line in lines[1:]:
        out.append(torch.where(line > out[-1], line, out[-1]))
    if backwards:
        out.reverse()
    return torch.stack(out, dim)


class Published:
    """Evaluates a state dict of the authors' names, in evaluation mode."""

    def __init__(self, state, family):
        self.state = {name: value.double() for name, value in state.items()}
        self.family = family  # "cornernet", "squeeze", "saccade" or "centernet"
        self.hg = "" if family == "centernet" else "hg."

    def num(self, pattern):
        return 1 + max(int(found[1]) for name in self.state if (found := re.match(pattern, name)))

    def has(self, prefix):
        return any(name.startswith(prefix + ".") for name in self.state)

    def conv(self, x, name, stride=1, groups=1):
        weight, bias = self.state[name + ".weight"], self.state.get(name + ".bias")
        return F.conv2d(x, weight, bias, stride, (weight.shape[-1] - 1) // 2, groups=groups)

    def bn(self, x, name):
        mean, var, scale, shift = (
            self.state[f"{name}.{key}"].view(1, -1, 1, 1) for key in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / torch.sqrt(var + 1e-5) * scale + shift

    def convolution(self, x, name, stride=1):
        x = self.conv(x, name + ".conv", stride)
        return (self.bn(x, name + ".bn") if self.has(name + ".bn") else x).clamp(min=0)

    def residual(self, x, name, stride=1):
        y = self.bn(self.conv(x, name + ".conv1", stride), name + ".bn1").clamp(min=0)
        y = self.bn(self.conv(y, name + ".conv2"), name + ".bn2")
        if self.has(name + ".skip"):
            x = self.bn(self.conv(x, name + ".skip.0", stride), name + ".skip.1")
        return (x + y).clamp(min=0)

    def fire(self, x, name, stride=1):
        y = self.bn(self.conv(x, name + ".conv1"), name + ".bn1")
        left = self.conv(y, name + ".conv_1x1", stride)
        right = self.conv(y, name + ".conv_3x3", stride, groups=y.shape[1])
        y = self.bn(torch.cat([left, right], 1), name + ".bn2")
        return (y + x if y.shape == x.shape and stride == 1 else y).clamp(min=0)

    def layers(self, x, name, stride=1):
        block = self.fire if self.family == "squeeze" else self.residual
        for i in range(self.num(re.escape(name) + r"\.(\d+)\.")):
            x = block(x, f"{name}.{i}", stride if i == 0 else 1)
        return x

    def hourglass(self, x, name, merged):
        up = self.layers(x, name + ".up1")
        low = self.layers(x, name + ".low1", stride=2)
        inner = self.hourglass if self.has(name + ".low2.up1") else lambda x, name, _: self.layers(x, name)
        low = self.layers(inner(low, name + ".low2", merged), name + ".low3")
        if self.family == "squeeze":
            weight, bias = self.state[name + ".up2.weight"], self.state[name + ".up2.bias"]
            low = F.conv_transpose2d(low, weight, bias, stride=2, padding=1)
        else:
            low = low.repeat_interleave(2, 2).repeat_interleave(2, 3)
        merged.append(up + low)
        return merged[-1]

    def merge(self, pooled, x, name):
        y = self.bn(self.conv(pooled, name + ".p_conv1"), name + ".p_bn1")
        y = (y + self.bn(self.conv(x, name + ".conv1"), name + ".bn1")).clamp(min=0)
        return self.convolution(y, name + ".conv2")

    def corner(self, x, name, backwards):
        """Pool 1 is top or bottom, along the columns; pool 2 is left or right, along the rows."""
        one, two = self.convolution(x, name + ".p1_conv1"), self.convolution(x, name + ".p2_conv1")
        if self.family == "centernet":
            one = one + running_maximum(self.convolution(x, name + ".look_conv1"), 3, backwards)
            two = two + running_maximum(self.convolution(x, name + ".look_conv2"), 2, backwards)
            one, two = self.conv(one, name + ".P1_look_conv"), self.conv(two, name + ".P2_look_conv")
        return self.merge(running_maximum(one, 2, backwards) + running_maximum(two, 3, backwards), x, name)

    def center(self, x, name):
        one, two = self.convolution(x, name + ".p1_conv1"), self.convolution(x, name + ".p2_conv1")
        one = running_maximum(running_maximum(one, 2, True), 2, False)
        two = running_maximum(running_maximum(two, 3, True), 3, False)
        return self.merge(one + two, x, name)

    def head(self, x, name):
        return self.conv(self.convolution(x, name + ".0"), name + ".1")

    def stack(self, x, s):
        cnvs, offs = ("cnvs", "regrs") if self.family == "centernet" else ("modules", "offs")
        outputs = {}
        for short, point, backwards in (("tl", "top_left", True), ("br", "bottom_right", False)):
            pooled = self.corner(x, f"{short}_{cnvs}.{s}", backwards)
            outputs[f"{point}_heatmap"] = self.head(pooled, f"{short}_heats.{s}")
            outputs[f"{point}_embedding"] = self.head(pooled, f"{short}_tags.{s}")
            outputs[f"{point}_offset"] = self.head(pooled, f"{short}_{offs}.{s}")
        if self.family == "centernet":
            pooled = self.center(x, f"ct_cnvs.{s}")
            outputs["center_heatmap"] = self.head(pooled, f"ct_heats.{s}")
            outputs["center_offset"] = self.head(pooled, f"ct_regrs.{s}")
        return outputs

    def __call__(self, images):
        x = self.convolution(images.double(), self.hg + "pre.0", stride=2)
        for i in range(1, self.num(re.escape(self.hg) + r"pre\.(\d+)\.")):
            x = self.residual(x, f"{self.hg}pre.{i}", stride=2)
        hourglasses = self.hg + ("kps" if self.family == "centernet" else "hgs")
        stacks, last = [], self.num(re.escape(hourglasses) + r"\.(\d+)\.") - 1
        for s in range(last + 1):
            merged: list[torch.Tensor] = []
            features = self.convolution(self.hourglass(x, f"{hourglasses}.{s}", merged), f"{self.hg}cnvs.{s}")
            stacks.append(self.stack(features, s))
            if self.family == "saccade":
                stacks[-1]["attention"] = [self.head(m, f"att_modules.{s}.{i}") for i, m in enumerate(merged)]
            if s < last:
                inter, cnv = f"{self.hg}inters_.{s}", f"{self.hg}cnvs_.{s}"
                x = self.bn(self.conv(x, inter + ".0"), inter + ".1")
                x = x + self.bn(self.conv(features, cnv + ".0"), cnv + ".1")
                x = self.residual(x.clamp(min=0), f"{self.hg}inters.{s}")
        return {"stacks": stacks}
