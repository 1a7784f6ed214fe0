"""Keypoints as a sparse control: people's poses, found and drawn by controlnet-aux (OpenPose, DWPose).

Weights are read as safetensors only; see `weights.py` for how to make them from what is published.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from longvie.controls.edges import RESOLUTION, Detector
from longvie.controls.tracks import TrackError

POSE_SPECS = "openpose:FOLDER, openpose-full:FOLDER, dwpose:FOLDER"
_ANNOTATORS = "https://huggingface.co/lllyasviel/Annotators/resolve/main"
# Of DWPose's person detector and pose network; its authors' default checkpoints.
_YOLOX = (
    "https://download.openmmlab.com/mmdetection/v2.0/yolox/yolox_l_8x8_300e_coco/"
    "yolox_l_8x8_300e_coco_20211126_140236-d3bd2b23.pth"
)
_DWPOSE = "https://huggingface.co/wanghaofan/dw-ll_ucoco_384/resolve/main/dw-ll_ucoco_384.pth"


def load_pose_detector(spec: str, *, device: str = "cpu") -> Detector:
    """Load openpose:FOLDER (bodies), openpose-full:FOLDER (with hands and faces) or dwpose:FOLDER.

    The detector draws the poses of each frame on black: uint8 (t, h, w, 3) to the same shape.

    Raises:
        TrackError: if there is no such detector, or its code or weights cannot be had.
    """
    name, _, where = spec.partition(":")
    if name not in ("openpose", "openpose-full", "dwpose"):
        raise TrackError(f"there is no pose detector {spec!r}; give one of: {POSE_SPECS}")
    from longvie.controls.weights import WeightsError

    try:
        if name == "dwpose":
            detector, fingerprint = _dwpose(where, device)
            options: dict[str, Any] = {}
        else:
            full = name == "openpose-full"
            detector, fingerprint = _openpose(where, device, full=full)
            options = {"include_hand": full, "include_face": full}
    except WeightsError as error:
        raise TrackError(f"pose detector {name}: {error}") from error
    detect = partial(detector, detect_resolution=RESOLUTION, image_resolution=RESOLUTION, output_type="np", **options)
    return Detector(name=name, fingerprint=fingerprint, detect=detect)


def _openpose(where: str, device: str, *, full: bool) -> tuple[Any, str]:
    from controlnet_aux.open_pose import OpenposeDetector
    from controlnet_aux.open_pose.body import Body, bodypose_model
    from controlnet_aux.open_pose.face import Face, FaceNet
    from controlnet_aux.open_pose.hand import Hand, handpose_model

    from longvie.controls.weights import find_weights, fingerprint, load_weights

    parts = [("body_pose_model", Body, bodypose_model)]
    if full:
        parts += [("hand_pose_model", Hand, handpose_model), ("facenet", Face, FaceNet)]
    estimators, prints = [], []
    for file, kind, build in parts:
        path = find_weights(where, file, published=f"{_ANNOTATORS}/{file}.pth")
        network = build().eval()
        # The published body and hand files leave out the first part of every name.
        short = (lambda key: key.partition(".")[2]) if kind is not Face else str
        load_weights(network, path, published_name=short)
        estimator = _without_loading(kind)
        estimator.model = network.to(device)
        estimators.append(estimator)
        prints.append(fingerprint(network, file))
    return OpenposeDetector(*estimators), "-".join(prints)


def _without_loading(kind: Any) -> Any:
    """An estimator whose constructor, which would unpickle a file, has not run."""
    from controlnet_aux.open_pose import face

    estimator = kind.__new__(kind)
    if kind is face.Face:  # what its constructor sets beside the model
        estimator.inference_size = face.params["inference_img_size"]
        estimator.sigma = face.params["gaussian_sigma"]
        estimator.threshold = face.params["heatmap_peak_thresh"]
    return estimator


def _dwpose(where: str, device: str) -> tuple[Any, str]:
    try:
        from mmdet.apis import init_detector  # pyright: ignore[reportMissingImports]
        from mmpose.apis import init_model  # pyright: ignore[reportMissingImports]
        from mmpose.utils import adapt_mmdet_pipeline  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise TrackError(
            f"dwpose needs the packages mmcv, mmdet and mmpose ({error}); install them with OpenMMLab's mim, or give "
            "openpose:FOLDER"
        ) from error
    import controlnet_aux.dwpose as package
    from controlnet_aux.dwpose.wholebody import Wholebody

    from longvie.controls.weights import find_weights, fingerprint, load_weights

    configs = Path(package.__file__).parent
    people = init_detector(str(configs / "yolox_config/yolox_l_8xb8-300e_coco.py"), None, device=device)
    people.cfg = adapt_mmdet_pipeline(people.cfg)
    poses = init_model(str(configs / "dwpose_config/dwpose-l_384x288.py"), None, device=device)
    for network, published in ((people, _YOLOX), (poses, _DWPOSE)):
        load_weights(network, find_weights(where, Path(published).stem, published=published))
    body = Wholebody.__new__(Wholebody)
    body.detector, body.pose_estimator = people, poses
    detector = package.DWposeDetector.__new__(package.DWposeDetector)
    detector.pose_estimation = body
    return detector, f"{fingerprint(people, 'dwpose')}-{fingerprint(poses, 'dwpose')}"
