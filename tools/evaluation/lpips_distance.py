"""LPIPS as squared Euclidean distance in an embedding: embed images once, then any number of pairs. Owns the
embedding and its name; which pairs are worth looking at is pairs.py's business, where weights lie trunks.py's."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from config.errors import UserError
from tools.evaluation.encoders.trunks import NETS, Weights, build_trunk, find_head, find_net, find_trunk
from tools.evaluation.inference import check_images, exact_inference, to_rgb, to_tensor
from tools.evaluation.neighbours import squared_distances

# Constants of LPIPS v0.1: ImageNet mean and deviation moved to inputs in [-1, 1].
_SHIFT = (-0.030, -0.088, -0.188)
_SCALE = (0.458, 0.448, 0.450)
_NORM_EPS = 1e-10
_MIN_SIZE_PX = 32  # below, the deepest maps vanish
_NEAR = 1e-6  # squared distances below this share of the norms are taken from differences
_COLUMN_BLOCK = 1 << 15
_DENSE_SHARE = 0.1  # of a block's pairs asked for, from which on a matrix product is cheaper than single differences


class PerceptualEmbedding:
    """Maps 8-bit images to vectors whose squared Euclidean distance is LPIPS.

    LPIPS sums, over layers l, w_l (f - g)^2 averaged over the H_l x W_l positions, with f and g unit vectors along
    the channels. The embedding lists the entries of f scaled by sqrt(w_l / (H_l W_l)).

    Source: Zhang et al. 2018, arXiv 1801.03924, equation 1.
    """

    def __init__(self, net: str, trunk: Weights, head: Weights, *, device: torch.device | str = "cpu") -> None:
        self.net = net
        self.device = torch.device(device)
        self.trunk_sha256 = trunk.sha256
        self.head_sha256 = head.sha256
        self.literature_comparable = trunk.official and head.official
        # What follows the last tap is not needed, and AlexNet's last pooling leaves nothing of images of 32 px.
        self._trunk = build_trunk(net, trunk.tensors)[:NETS[net].taps[-1] + 1].to(self.device)
        weights = [head.tensors[f"lin{layer}.model.1.weight"].flatten() for layer in range(len(NETS[net].channels))]
        if any((weight < 0).any() for weight in weights):
            raise UserError(f"{head.path}: expected weights of an LPIPS head, none below zero; found some below zero")
        self._roots = [weight.to(self.device, torch.float32).sqrt().view(1, -1, 1, 1) for weight in weights]

    @property
    def name(self) -> str:
        """ "LPIPS-squeeze-v0.1" where trunk and head are the published ones, else "PD[...]" with both hashes."""
        if self.literature_comparable:
            return f"LPIPS-{self.net}-v0.1"
        return f"PD[{self.net}@{self.trunk_sha256[:8]}+{self.head_sha256[:8]}]"

    def embed(self, images: np.ndarray, *, batch_size: int = 32) -> np.ndarray:
        """Embed uint8 images (N, H, W, C), C of 1 or 3: float32 (N, E). E grows with H x W.

        Raises:
            UserError: not uint8, other channels, or a side under 32 px.
        """
        images = check_images(images)
        if min(images.shape[1:3]) < _MIN_SIZE_PX:
            raise UserError(
                f"{self.name}: expected images of at least {_MIN_SIZE_PX} x {_MIN_SIZE_PX} px, found "
                f"{images.shape[1]} x {images.shape[2]}; enlarge them first"
            )
        blocks = []
        with exact_inference(self.device):
            for start in range(0, len(images), batch_size):
                batch = to_tensor(to_rgb(images[start : start + batch_size]), self.device)
                blocks.append(self._embed_batch(batch).cpu().numpy())
        return np.concatenate(blocks)

    def matrix(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """LPIPS of every embedding in `a` (N, E) against every one in `b` (M, E): float64 (N, M)."""
        squared = np.zeros((len(a), len(b)))
        norms = np.zeros((len(a), len(b)))
        for start in range(0, a.shape[1], _COLUMN_BLOCK):
            part_a = a[:, start : start + _COLUMN_BLOCK].astype(np.float64)
            part_b = b[:, start : start + _COLUMN_BLOCK].astype(np.float64)
            squared += squared_distances(part_a, part_b)
            norms += (part_a**2).sum(axis=1)[:, None] + (part_b**2).sum(axis=1)[None, :]
        near = np.argwhere(squared < _NEAR * norms)
        squared[near[:, 0], near[:, 1]] = _pair_distances(a, b, near)
        return squared

    def pairwise(
        self,
        images_a: np.ndarray,
        images_b: np.ndarray,
        pairs: np.ndarray,
        *,
        batch_size: int = 32,
        memory_bytes: int = 2 << 30,
    ) -> np.ndarray:
        """LPIPS of images_a[i] and images_b[j] for each row (i, j) of `pairs` (P, 2): float64 (P,).

        Images are uint8 (N, H, W, C). Each is embedded once where all embeddings fit in `memory_bytes`; otherwise
        blocks of the first side are held and the second side is embedded anew against each.

        Raises:
            UserError: as `embed`, or the two sides differ in size.
        """
        if images_a.shape[1:3] != images_b.shape[1:3]:
            raise UserError(f"{self.name}: expected one size, found {images_a.shape[1:3]} and {images_b.shape[1:3]}")
        pairs = np.asarray(pairs, dtype=np.int64).reshape(-1, 2)
        result = np.zeros(len(pairs))
        if not len(pairs):
            return result
        if images_a is images_b:  # one embedding serves both sides
            used, numbers = np.unique(pairs, return_inverse=True)
            if len(used) * self.row_bytes(images_a) <= memory_bytes:
                embedded = self.embed(images_a[used], batch_size=batch_size)
                return self._block_distances(embedded, embedded, numbers.reshape(-1, 2))
        held = max(1, memory_bytes // (2 * self.row_bytes(images_a)))  # images a side
        used_b = np.unique(pairs[:, 1])
        all_b = self.embed(images_b[used_b], batch_size=batch_size) if len(used_b) <= held else None
        used_a = np.unique(pairs[:, 0])
        for block_a in np.split(used_a, range(held, len(used_a), held)):
            embedded_a = self.embed(images_a[block_a], batch_size=batch_size)
            in_a = np.isin(pairs[:, 0], block_a)
            for block_b in np.split(used_b, range(held, len(used_b), held)):
                chosen = np.flatnonzero(in_a & np.isin(pairs[:, 1], block_b))
                if not len(chosen):
                    continue
                embedded_b = all_b if all_b is not None else self.embed(images_b[block_b], batch_size=batch_size)
                local = np.stack(
                    [np.searchsorted(block_a, pairs[chosen, 0]), np.searchsorted(block_b, pairs[chosen, 1])], axis=1
                )
                result[chosen] = self._block_distances(embedded_a, embedded_b, local)
        return result

    def loss(self, a: Tensor, b: Tensor) -> Tensor:
        """Mean LPIPS of float images (B, C, H, W) in [-1, 1], pair by pair, differentiable in both."""
        embedded = [self._embed_batch((x.expand(-1, 3, -1, -1) + 1.0) * 127.5) for x in (a, b)]
        return (embedded[0] - embedded[1]).square().sum(dim=1).mean()

    def row_bytes(self, images: np.ndarray) -> int:
        """Bytes of one image's embedding at the size of `images`."""
        return self.embed(images[:1], batch_size=1).nbytes

    def _block_distances(self, a: np.ndarray, b: np.ndarray, pairs: np.ndarray) -> np.ndarray:
        if len(pairs) > _DENSE_SHARE * len(a) * len(b):
            return self.matrix(a, b)[pairs[:, 0], pairs[:, 1]]
        return _pair_distances(a, b, pairs)

    def _embed_batch(self, images: Tensor) -> Tensor:
        x = images / 127.5 - 1.0  # (B, 3, H, W)
        shift = torch.tensor(_SHIFT, device=self.device).view(1, 3, 1, 1)
        scale = torch.tensor(_SCALE, device=self.device).view(1, 3, 1, 1)
        x = (x - shift) / scale
        parts = []
        for index, layer in enumerate(self._trunk):
            x = layer(x)
            if index in NETS[self.net].taps:
                root = self._roots[len(parts)]
                unit = x / (x.square().sum(dim=1, keepdim=True).sqrt() + _NORM_EPS)
                parts.append((unit * root / (x.shape[2] * x.shape[3]) ** 0.5).flatten(1))
        return torch.cat(parts, dim=1)  # (B, E)


def _pair_distances(a: np.ndarray, b: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Squared distances of a[i] and b[j] from differences in float64: exact however near the two are."""
    values = np.zeros(len(pairs))
    for row, (i, j) in enumerate(pairs):
        difference = a[i].astype(np.float64) - b[j]
        values[row] = difference @ difference
    return values


def load_perceptual(
    path: Path | str | None,
    *,
    net: str | None = None,
    device: torch.device | str = "cpu",
    key: str = "dataset_params.lpips_path",
) -> PerceptualEmbedding:
    """Load LPIPS `net` from `path`: a trunk, a linear head, or a folder that holds either or both.

    `net` None is the network that these weights are of: squeeze, alex or vgg.
    What `path` lacks is looked for in torch's hub cache (trunk) and in the lpips package (head), never downloaded.
    `path` None looks in those two only.

    Raises:
        UserError: trunk or head not found, ambiguous or unreadable; names the file, its address and config key `key`.
    """
    path = None if path is None else Path(path)
    net = find_net(path) if net is None else net
    trunk = find_trunk(path, net, key=key)
    head = find_head(path, net, key=key)
    return PerceptualEmbedding(net, trunk, head, device=device)
