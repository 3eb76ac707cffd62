"""Writes the files of this folder with PyTorch (2.13.0): `python make.py`.

`state.pth` and `old_form.pth` hold the same tensors in the two forms of torch.save, the others what
is refused. What the tensors hold is said again, with NumPy, in tests/test_state_dicts.py.
"""

import argparse
from collections import OrderedDict
from pathlib import Path

import torch

HERE = Path(__file__).parent
OLD = {"_use_new_zipfile_serialization": False}

whole = torch.arange(24, dtype=torch.float32).reshape(2, 3, 4)
state = OrderedDict(
    whole=whole,
    permuted=whole.permute(2, 0, 1),  # these share the storage of the first
    part=whole[1:, ::2, 1::2],
    number=whole[1, 2, 3],
    parameter=torch.nn.Parameter(whole[0].t()),
    empty=torch.zeros(0, 3),
    flags=torch.tensor([True, False, True]),
    counter=torch.tensor(7),
)
for name in ["float64", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8"]:
    state[name] = torch.arange(1, 4).to(getattr(torch, name))
state._metadata = OrderedDict({"": {"version": 1}})
torch.save(state, HERE / "old_form.pth", **OLD)
torch.save(
    {**state, "uint16": torch.arange(3).to(torch.uint16)},
    HERE / "protocol_4.pth",
    pickle_protocol=4,
)
torch.save(state, HERE / "state.pth")

net = torch.nn.Sequential(torch.nn.Conv2d(3, 2, 1), torch.nn.BatchNorm2d(2))
state = {f"module.{name}": value for name, value in net.state_dict().items()}
optimizer = torch.optim.Adam(net.parameters())
net(torch.ones(1, 3, 2, 2)).sum().backward()
optimizer.step()
checkpoint = {
    "epoch": 3,
    "arch": "tf_efficientnet_b0",
    "state_dict": state,
    "state_dict_ema": {name: value * 0 + 2 for name, value in state.items()},
    "optimizer": optimizer.state_dict(),
    "metric": 0.5,
}
torch.save(checkpoint, HERE / "checkpoint.pth")
torch.save(checkpoint | {"args": argparse.Namespace(lr=0.1)}, HERE / "namespace.pth")
torch.save(net, HERE / "module.pth")
torch.save({"x": torch._neg_view(torch.ones(3))}, HERE / "negative.pth")
torch.save({"x": torch.ones(1).expand(1000)}, HERE / "expanded.pth")
torch.jit.script(net).save(HERE / "torchscript.pt")
