"""What the config's networks read of the class: features of whole images, and the judge's scores on held-out ones."""

import numpy as np
import torch

from config.schema import EvaluationParams
from dataset.images import to_uint8
from models.classifier import Classifier
from tools.evaluation.encoders.encoder import load_encoder
from tools.evaluation.inference import compute_logits


def network_features(
    params: EvaluationParams, images: np.ndarray, *, device: torch.device
) -> dict[str, np.ndarray]:
    """Features float32 (N, D) by encoder's name, of images (N, C, H, H) in [-1, 1]; empty without a squeezenet_path."""
    path = params.squeezenet_path
    if path is None:
        return {}
    encoder = load_encoder("squeezenet1_1", weights_path=path, device=device,
                           preset=params.squeezenet_preset)
    pixels = to_uint8(images).transpose(0, 2, 3, 1)
    return {encoder.name: encoder.encode(pixels, batch_size=params.batch_size)}


def judge_scores(judge: Classifier, images: np.ndarray, *, device: torch.device) -> np.ndarray:
    """Log-probabilities float64 (N, classes) of images (N, C, H, H) in [-1, 1]."""
    logits = compute_logits(judge.to(device).eval(), torch.from_numpy(images).split(64), device=device)
    return logits.log_softmax(dim=1).double().cpu().numpy()
