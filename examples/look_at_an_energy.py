# %% [markdown]
# # Look at an energy
#
# What a trained energy says of data, of noise, and of the way between them. After `make repro`; run it as
# [the other one](use_a_model.py).

# %%
import matplotlib.pyplot as plt
import numpy as np
import torch

import advebm

model = advebm.load("models/digits/robust_jem")
x = torch.from_numpy(np.load("data/digits/test.npz")["x"][:64]).permute(0, 3, 1, 2) / 255
noise = torch.rand(x.shape, generator=torch.Generator().manual_seed(0))

# %% [markdown]
# **From an image to noise.** E((1 - t) x + t n) of each image and their mean. It should rise: data have low energy.

# %%
t = torch.linspace(0, 1, 11)
energies = torch.stack([model.energy((1 - s) * x + s * noise).cpu() for s in t])  # (11, N)
plt.plot(t.numpy(), energies.numpy(), color="0.8", linewidth=0.5)
plt.plot(t.numpy(), energies.mean(1).numpy(), color="black")
plt.xlabel("share of noise")
plt.ylabel("E(x)")
plt.show()

# %% [markdown]
# **Classes.** E(x, y) of an image for each class: the lowest is the class that the model sees,
# since p(y | x) = exp(E(x) - E(x, y)).

# %%
joint = torch.stack([model.energy(x[:1], torch.tensor([k])) for k in range(model.classes)]).flatten().cpu()
p = (model.energy(x[:1]).cpu() - joint).exp()
assert torch.allclose(p, model.classify(x[:1]).p[0].cpu(), atol=1e-4)
plt.bar(range(model.classes), joint.numpy())
plt.xlabel("class y")
plt.ylabel("E(x, y)")
plt.show()
