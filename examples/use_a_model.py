# %% [markdown]
# # Use a trained model
#
# After `make repro`. A script in the percent format: Jupyter opens it as a notebook through
# [jupytext](https://jupytext.readthedocs.io), editors such as VS Code by themselves; `python examples/use_a_model.py`
# runs it.

# %%
import matplotlib.pyplot as plt
import numpy as np

import advebm

model = advebm.load("models/digits/robust_jem")
x = np.load("data/digits/test.npz")["x"]  # uint8 (N, 8, 8, 1)
print(model.shape, list(model.recipes), model.threshold)

# %% [markdown]
# **Classify and detect.** `p` are the probabilities of all classes; 95% of the validation images have at least the score
# `model.threshold`.

# %%
y, p = model.classify(x[:8])
likely = model.score(x[:8]) >= model.threshold
print(y.tolist(), p.max(1).values.tolist(), likely.tolist())

# %% [markdown]
# **Generate**, a row for each recipe. Image i depends on the seed and i alone.

# %%
figure, rows = plt.subplots(len(model.recipes), 8, figsize=(8, 1.2 * len(model.recipes)), squeeze=False)
for axes, recipe in zip(rows, model.recipes, strict=True):
    for ax, image in zip(axes, model.sample(8, recipe=recipe).cpu().numpy(), strict=True):
        ax.imshow(image[0], cmap="gray", vmin=0, vmax=1)
        ax.set(xticks=[], yticks=[])
    axes[0].set_ylabel(recipe)
plt.show()

# %% [markdown]
# **Attack.** The share of test images that keep their class within a ball of radius eps.

# %%
labels = model.classify(x[:50]).y
for eps in (0.0, 0.05, 0.1, 0.2):
    kept = model.classify(model.attack(x[:50], labels, eps=eps)).y == labels
    print(f"eps {eps:.2f}: {kept.float().mean():.2f}")
