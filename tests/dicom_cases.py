"""DICOM files made with pydicom, for tests: none is of a person or a device."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from highdicom import seg
from pydicom import Dataset, FileMetaDataset, dcmwrite
from pydicom.sr.codedict import codes
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
BYTE_CAPTURE = "1.2.840.10008.5.1.4.1.1.7.2"
ULTRASOUND = "1.2.840.10008.5.1.4.1.1.6.1"
ULTRASOUND_FRAMES = "1.2.840.10008.5.1.4.1.1.3.1"

SECRETS = {
    "PatientName": "Quackenbush^Xanthippe",
    "PatientID": "PID-7Z93K1",
    "PatientBirthDate": "19371123",
    "AccessionNumber": "ACC-55Q81",
    "ReferringPhysicianName": "Vandersloot^Ottoline",
    "StudyDescription": "Zwieback protocol",
    "PatientComments": "comment-lorikeet",
    "InstitutionName": "Hospital Kittiwake",
    "StudyInstanceUID": "1.2.826.0.1.3680043.8.498.1111111111",
    "SeriesInstanceUID": "1.2.826.0.1.3680043.8.498.2222222222",
    "SOPInstanceUID": "1.2.826.0.1.3680043.8.498.3333333333",
}
"""Values that are found again wherever they go."""
PRIVATE = "private-axolotl-8841"
PRIVATE_CREATOR = "CREATOR WOMBAT 41"


def region(x_cm: float, y_cm: float, units: int = 3) -> Dataset:
    """One item of SequenceOfUltrasoundRegions."""
    item = Dataset()
    item.PhysicalUnitsXDirection = item.PhysicalUnitsYDirection = units
    item.PhysicalDeltaX, item.PhysicalDeltaY = x_cm, y_cm
    item.RegionLocationMinX0 = item.RegionLocationMinY0 = 0
    item.RegionLocationMaxX1 = item.RegionLocationMaxY1 = 10
    item.RegionSpatialFormat, item.RegionDataType, item.RegionFlags = 1, 1, 0
    return item


def make_dicom(
    pixels: npt.NDArray[Any], *, kind: str = SECONDARY_CAPTURE, bits: int | None = None, **elements: Any
) -> Dataset:
    """A DICOM data set of one picture; `elements` are set as they are, None takes one out. # (H, W) or (H, W, 3)."""
    made = Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.SOPClassUID, made.Modality = kind, "US" if kind in (ULTRASOUND, ULTRASOUND_FRAMES) else "OT"
    made.SOPInstanceUID, made.StudyInstanceUID, made.SeriesInstanceUID = (generate_uid() for _ in range(3))
    made.PatientName, made.PatientID, made.PatientBirthDate, made.PatientSex = "Phantom^Drawn", "phantom 1", "", ""
    made.StudyDate, made.StudyTime, made.StudyID, made.AccessionNumber = "20240102", "101112", "1", ""
    made.ReferringPhysicianName, made.SeriesNumber, made.InstanceNumber = "", 1, 1
    made.PatientOrientation, made.ConversionType = "", "WSD"
    made.Rows, made.Columns = pixels.shape[:2]
    made.SamplesPerPixel = 1 if pixels.ndim == 2 else 3
    made.PhotometricInterpretation = "MONOCHROME2" if pixels.ndim == 2 else "RGB"
    if pixels.ndim == 3:
        made.PlanarConfiguration = 0
    allocated = 8 * pixels.dtype.itemsize
    made.BitsAllocated, made.BitsStored = allocated, bits or allocated
    made.HighBit, made.PixelRepresentation = made.BitsStored - 1, int(pixels.dtype.kind == "i")
    content = pixels.tobytes()
    made.PixelData = content + b"\0" * (len(content) % 2)
    made["PixelData"].VR = "OB" if allocated == 8 else "OW"
    for keyword, value in elements.items():
        if value is None:
            made.pop(keyword, None)
        else:
            setattr(made, keyword, value)
    return made


def write_dicom(path: Path, made: Dataset | npt.NDArray[Any], **elements: Any) -> Path:
    """Write a data set, or a picture through `make_dicom`."""
    dataset = made if isinstance(made, Dataset) else make_dicom(made, **elements)
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dcmwrite(path, dataset, enforce_file_format=True)
    return path


def with_secrets(made: Dataset) -> Dataset:
    """Put unmistakable strings everywhere a file may name a person, private elements and nested ones among them."""
    for keyword, value in SECRETS.items():
        setattr(made, keyword, value)
    made.private_block(0x0011, PRIVATE_CREATOR, create=True).add_new(0x01, "LO", PRIVATE)
    item = region(0.018, 0.02)
    item.private_block(0x0013, PRIVATE_CREATOR, create=True).add_new(0x01, "LO", PRIVATE)
    made.SequenceOfUltrasoundRegions = [item]
    return made


def make_segmentation(
    scans: list[Dataset], masks: npt.NDArray[np.uint8], segments: list[dict[str, Any]], kind: str = "BINARY"
) -> Dataset:
    """A segmentation as another tool may write it, with highdicom.

    Args:
        scans: The scans it refers to.
        masks: Value -> number of the segment. # (N, H, W)
        segments: `label`, and where wanted `kind` and `region` as codes; numbered from 1.
        kind: `BINARY`, `FRACTIONAL` or `LABELMAP`.
    """
    described = [
        seg.SegmentDescription(
            segment_number=number,
            segment_label=segment["label"],
            segmented_property_category=codes.SCT.AnatomicalStructure,
            segmented_property_type=segment.get("kind", codes.SCT.Tissue),
            algorithm_type="MANUAL",
            anatomic_regions=[segment["region"]] if "region" in segment else None,
        )
        for number, segment in enumerate(segments, start=1)
    ]
    planes = np.stack([masks == number for number in range(1, len(segments) + 1)], axis=-1)
    made: Dataset = seg.Segmentation(
        source_images=scans,
        pixel_array=masks if kind == "LABELMAP" else planes.astype(np.uint8),
        segmentation_type=kind,
        segment_descriptions=described,
        series_instance_uid=generate_uid(),
        series_number=2,
        sop_instance_uid=generate_uid(),
        instance_number=1,
        manufacturer="maker",
        manufacturer_model_name="model",
        software_versions="1",
        device_serial_number="1",
    )
    return made
