"""The Inception network that the Fréchet Inception Distance is defined with (TensorFlow, 2015-12-05) and its
input presets. torchvision's own inception_v3 is another network; its blocks are reused where they agree."""

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torchvision.models import inception as tv

from config.errors import UserError
from config.schema import INCEPTION_FILE
from dataset.storage import hash_file
from tools.evaluation.encoders.downloads import SOURCES, MissingWeights
from tools.evaluation.encoders.trunks import read_tensors
from tools.evaluation.inference import to_tensor

ADDRESS, STATE_DICT_SHA256 = SOURCES["inception"].address, SOURCES["inception"].sha256
TORCHSCRIPT_SHA256 = "f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4"
DIMENSION = 2048
PRESETS = ("tf1", "clean", "pytorch")
# As pytorch-fid and torch-fidelity publish the state dict, and the TorchScript file that StyleGAN and clean-fid use.
_FILE_NAMES = (INCEPTION_FILE, INCEPTION_FILE.replace("pt_", "weights-"), "inception-2015-12-05.pt")
_INPUT_PX = 299
_NUM_CLASSES = 1008


class FidInception(nn.Module):
    """Inception v3 as in the FID graph: (B, 3, 299, 299) in about [-1, 1] -> pool3 features (B, 2048).

    It differs from torchvision's in three places: 3 x 3 average pools leave the padding out of the mean, the last
    block pools by maximum, and the classifier has 1008 outputs (kept so that the weights load strictly, never run).

    Source: Szegedy et al. 2015, arXiv 1512.00567; Heusel et al. 2017, arXiv 1706.08500.
    """

    def __init__(self) -> None:
        super().__init__()
        # Attribute names are the keys of the published state dict.
        self.Conv2d_1a_3x3 = tv.BasicConv2d(3, 32, kernel_size=3, stride=2)
        self.Conv2d_2a_3x3 = tv.BasicConv2d(32, 32, kernel_size=3)
        self.Conv2d_2b_3x3 = tv.BasicConv2d(32, 64, kernel_size=3, padding=1)
        self.Conv2d_3b_1x1 = tv.BasicConv2d(64, 80, kernel_size=1)
        self.Conv2d_4a_3x3 = tv.BasicConv2d(80, 192, kernel_size=3)
        self.Mixed_5b = _BlockA(192, pool_features=32)
        self.Mixed_5c = _BlockA(256, pool_features=64)
        self.Mixed_5d = _BlockA(288, pool_features=64)
        self.Mixed_6a = tv.InceptionB(288)
        self.Mixed_6b = _BlockC(768, channels_7x7=128)
        self.Mixed_6c = _BlockC(768, channels_7x7=160)
        self.Mixed_6d = _BlockC(768, channels_7x7=160)
        self.Mixed_6e = _BlockC(768, channels_7x7=192)
        self.Mixed_7a = tv.InceptionD(768)
        self.Mixed_7b = _BlockE(1280)
        self.Mixed_7c = _BlockE(2048, pool=_max_pool)
        self.fc = nn.Linear(DIMENSION, _NUM_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Pool3 features; see the class."""
        x = _chain(x, self.Conv2d_1a_3x3, self.Conv2d_2a_3x3, self.Conv2d_2b_3x3)
        x = F.max_pool2d(x, kernel_size=3, stride=2)  # (B, 64, 73, 73)
        x = _chain(x, self.Conv2d_3b_1x1, self.Conv2d_4a_3x3)
        x = F.max_pool2d(x, kernel_size=3, stride=2)  # (B, 192, 35, 35)
        x = _chain(x, self.Mixed_5b, self.Mixed_5c, self.Mixed_5d)  # (B, 288, 35, 35)
        x = _chain(x, self.Mixed_6a, self.Mixed_6b, self.Mixed_6c, self.Mixed_6d, self.Mixed_6e)  # (B, 768, 17, 17)
        x = _chain(x, self.Mixed_7a, self.Mixed_7b, self.Mixed_7c)  # (B, 2048, 8, 8)
        return x.mean(dim=(2, 3))  # (B, 2048)


def load_inception(path: Path | str | None) -> tuple[nn.Module, str, bool]:
    """Load the network from a state dict or the official TorchScript file: (module, file's sha256, official?).

    The module maps preprocessed images to features. Other weights of the right shapes load but are not official.
    TorchScript is opened only where its hash is the published one. Where `path` is None the file in torch's hub cache is
    taken.

    Raises:
        MissingWeights: no file.
        UserError: unreadable, other keys or shapes, unknown TorchScript; names what is wanted and where.
    """
    path = find_inception(path)
    sha256 = hash_file(path)
    if sha256 == TORCHSCRIPT_SHA256:
        return open_torchscript(path), sha256, True
    state = read_tensors(path)
    with torch.device("meta"):
        network = FidInception()
    try:
        network.load_state_dict(state, strict=True, assign=True)
    except RuntimeError as error:
        raise UserError(
            f"{path}: expected the weights of the FID Inception network ({INCEPTION_FILE}), found other keys or shapes "
            "(torchvision's inception_v3 is another network); name the right file in evaluation_params.inception_path"
        ) from error
    return network.to(torch.float32).eval().requires_grad_(False), sha256, sha256 == STATE_DICT_SHA256


def find_inception(path: Path | str | None) -> Path:
    """The file of the weights: `path`, or the one inside where that is a folder; where it is None, in torch's hub cache.

    Raises:
        MissingWeights: there is no file.
    """
    resolved = SOURCES["inception"].cached if path is None else Path(path)
    for name in _FILE_NAMES if resolved.is_dir() or path is None else ():
        file = (resolved if resolved.is_dir() else resolved.parent) / name
        if file.is_file():
            return file
    if resolved.is_dir():
        resolved = resolved / INCEPTION_FILE
    if not resolved.is_file():
        place = "torch's hub cache" if path is None else str(resolved)  # no path of this machine in a report
        raise MissingWeights(
            f"{place}: expected the FID Inception weights {INCEPTION_FILE} "
            f"(sha256 {STATE_DICT_SHA256}), found nothing there; fetch {ADDRESS} and name the file in "
            "evaluation_params.inception_path, or choose another encoder",
            source="inception", path=None if path is None else resolved,
        )
    return resolved


def open_torchscript(path: Path) -> nn.Module:
    """The layers of the TorchScript network, past its own resizing: preprocessed images -> features."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", FutureWarning)
        module = torch.jit.load(str(path), map_location="cpu").eval()
    return module.layers


def preprocess(images: np.ndarray, preset: str, *, device: torch.device | str = "cpu") -> Tensor:
    """Resize uint8 RGB images (B, H, W, 3) to 299 px and normalise them: float32 (B, 3, 299, 299) in about [-1, 1].

    `tf1`: bilinear without antialiasing, corner pixels at the origin (TensorFlow 1's resize_bilinear), as
    torch-fidelity does. `clean`: PIL's bicubic with antialiasing, each channel in float, nothing rounded between, as
    clean-fid does. Both map 0..255 to (x - 128) / 128. `pytorch`: bilinear without antialiasing, pixel centres at the
    halves, mapped to x / 127.5 - 1, as pytorch-fid does. The three give different distances: never compare across.

    Raises:
        UserError: an unknown preset.

    Source: Parmar et al. 2022, arXiv 2104.11222, for the difference that this makes.
    """
    if preset == "tf1":
        x = _lerp_resize(_lerp_resize(to_tensor(images, device), 3), 2)
    elif preset == "clean":
        x = torch.from_numpy(np.stack([_clean_resize(image) for image in images])).to(device)
    elif preset == "pytorch":
        x = F.interpolate(to_tensor(images, device) / 255.0, size=(_INPUT_PX, _INPUT_PX), mode="bilinear")
        return 2.0 * x - 1.0
    else:
        raise UserError(f"expected an Inception preset among {', '.join(PRESETS)}, found {preset!r}")
    return (x - 128.0) / 128.0


def _lerp_resize(x: Tensor, dim: int) -> Tensor:
    """Linear resize of one axis to 299 with source position = index * (size / 299), as TensorFlow 1 has it."""
    size = x.shape[dim]
    position = torch.arange(_INPUT_PX, dtype=torch.float32, device=x.device)
    position = position * torch.tensor(size / _INPUT_PX, dtype=torch.float32, device=x.device)
    low = position.long()
    high = (low + 1).clamp_max(size - 1)
    shape = [1, 1, 1, 1]
    shape[dim] = _INPUT_PX
    share = (position - low).view(shape)
    start = x.index_select(dim, low)
    return start + (x.index_select(dim, high) - start) * share


def _clean_resize(image: np.ndarray) -> np.ndarray:
    channels = [
        np.asarray(Image.fromarray(image[:, :, c].astype(np.float32)).resize((_INPUT_PX, _INPUT_PX), Image.BICUBIC))
        for c in range(image.shape[2])
    ]
    return np.clip(np.stack(channels), 0.0, 255.0)  # (3, 299, 299)


def _chain(x: Tensor, *layers: nn.Module) -> Tensor:
    for layer in layers:
        x = layer(x)
    return x


def _mean_pool(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, kernel_size=3, stride=1, padding=1, count_include_pad=False)


def _max_pool(x: Tensor) -> Tensor:
    return F.max_pool2d(x, kernel_size=3, stride=1, padding=1)


class _BlockA(tv.InceptionA):
    def forward(self, x: Tensor) -> Tensor:
        return torch.cat(
            [
                self.branch1x1(x),
                _chain(x, self.branch5x5_1, self.branch5x5_2),
                _chain(x, self.branch3x3dbl_1, self.branch3x3dbl_2, self.branch3x3dbl_3),
                self.branch_pool(_mean_pool(x)),
            ],
            dim=1,
        )


class _BlockC(tv.InceptionC):
    def forward(self, x: Tensor) -> Tensor:
        deep = (self.branch7x7dbl_1, self.branch7x7dbl_2, self.branch7x7dbl_3, self.branch7x7dbl_4, self.branch7x7dbl_5)
        return torch.cat(
            [
                self.branch1x1(x),
                _chain(x, self.branch7x7_1, self.branch7x7_2, self.branch7x7_3),
                _chain(x, *deep),
                self.branch_pool(_mean_pool(x)),
            ],
            dim=1,
        )


class _BlockE(tv.InceptionE):
    def __init__(self, in_channels: int, pool: Callable[[Tensor], Tensor] = _mean_pool) -> None:
        super().__init__(in_channels)
        self._pool = pool

    def forward(self, x: Tensor) -> Tensor:
        wide = self.branch3x3_1(x)
        deep = _chain(x, self.branch3x3dbl_1, self.branch3x3dbl_2)
        return torch.cat(
            [
                self.branch1x1(x),
                self.branch3x3_2a(wide),
                self.branch3x3_2b(wide),
                self.branch3x3dbl_3a(deep),
                self.branch3x3dbl_3b(deep),
                self.branch_pool(self._pool(x)),
            ],
            dim=1,
        )
