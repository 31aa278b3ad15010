"""The label map and the measurement of a DICOM scan as DICOM files: a segmentation and a structured report.

Both refer to the scan and repeat its patient and study (`sa2net.data.dicom_header.IDENTIFIERS`), as an archive needs to file
them. Private elements and free text of the scan are not repeated. Codes are SNOMED CT and DICOM where these have the
concept, else of the scheme 99SA2NET, whose name each report gives. Sides are those of the picture: they are never coded
as the patient's.
"""

import os
import re
import tempfile
from io import BytesIO
from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
import numpy.typing as npt
from highdicom import seg, sr
from highdicom.coding_schemes import CodingSchemeIdentificationItem
from pydicom import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code
from pydicom.uid import ExplicitVRLittleEndian

from sa2net import __version__
from sa2net.anatomy import FOREGROUND
from sa2net.data.dicom import DicomScan, quiet
from sa2net.data.dicom_segmentation import SEGMENT_CODES
from sa2net.errors import DataError
from sa2net.scoliosis import Measurement
from sa2net.scoliosis.result import CurveResult

MAKER, SOFTWARE = "SA2Net pipeline", "SA2Net"
SCHEME = "99SA2NET"
NOTE = "Research use only: ultrasound curve angle, not a radiographic Cobb angle."

ANGLE = codes.SCT.Angle
STANDARD_ERROR = Code("standard_error", SCHEME, "Standard error of the angle")
LOW = Code("interval_low", SCHEME, "Lower limit of the 90 percent interval of the angle")
HIGH = Code("interval_high", SCHEME, "Upper limit of the 90 percent interval of the angle")
CONVEX = Code("convex", SCHEME, "Side of the picture to which the curve is convex")
SIDES = {side: Code(f"picture_{side}", SCHEME, f"{side} of the picture") for side in ("left", "right")}
ENDS = {
    "upper_end": Code("upper_end", SCHEME, "Level nearest to the upper end of the curve"),
    "apex": Code("apex", SCHEME, "Level nearest to the apex of the curve"),
    "lower_end": Code("lower_end", SCHEME, "Level nearest to the lower end of the curve"),
}
CURVE = Code("curve", SCHEME, "Curve of the spine in an ultrasound projection image")
REFUSED = Code("refused", SCHEME, "No angle: the measurement was refused")
REGIONS = {
    "thoracic": codes.SCT.ThoracicSpine,
    "thoracolumbar": codes.SCT.ThoracoLumbarSpine,
    "lumbar": codes.SCT.LumbarSpine,
}
_REQUIRED = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")
_MAY_BE_EMPTY = [
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "StudyID",
    "AccessionNumber",
    "ReferringPhysicianName",
    "Modality",
]
_FORMS = {
    "PatientBirthDate": r"\d{8}",
    "StudyDate": r"\d{8}",
    "StudyTime": r"\d{2}(\d{2}(\d{2}(\.\d{1,6})?)?)?",
    "PatientSex": "[MFO]",
}
_UTF_8 = "ISO_IR 192"


def write_dicom_results(
    base: Path, scan: DicomScan, mask: npt.NDArray[np.uint8], measurement: Measurement
) -> tuple[Path, Path]:
    """Write `BASE.seg.dcm` and `BASE.sr.dcm`; every call gives them new UIDs.

    Args:
        base: Folder and name, without suffix.
        scan: The scan that they refer to.
        mask: Class ids. # (H, W)
        measurement: What was measured, or why not.

    Raises:
        DataError: The scan lacks the UIDs by which a file can refer to it, or its header cannot be repeated.
    """
    with quiet():
        try:
            source = _source(base.name, scan)
            files = {".seg.dcm": _segmentation(source, mask, measurement), ".sr.dcm": _report(source, measurement)}
            contents = {suffix: _encoded(dataset) for suffix, dataset in files.items()}
        except DataError:
            raise
        except Exception as error:  # the libraries quote values of the header
            raise DataError(
                f"no DICOM file can be written about {base.name}",
                evidence=f"the header of the scan cannot be repeated ({type(error).__name__})",
                action="Measure without --dicom, or mend the header of the scan.",
            ) from None
    written = [_write(base.with_name(base.name + suffix), content) for suffix, content in contents.items()]
    return written[0], written[1]


def _source(name: str, scan: DicomScan) -> Dataset:
    """The scan's header as the files repeat it: text as UTF-8, absent elements empty, impossible values left out."""
    header = Dataset()
    header.update(scan.header)
    missing = [keyword for keyword in _REQUIRED if not header.get(keyword)]
    if missing:
        raise DataError(
            f"no DICOM file can be written about {name}",
            evidence=f"its header has no {', '.join(missing)}",
            action="Measure without --dicom, or mend the header of the scan.",
        )
    header.decode()
    header.SpecificCharacterSet = _UTF_8
    for keyword in _MAY_BE_EMPTY:
        if keyword not in header:
            setattr(header, keyword, "")
    for keyword, form in _FORMS.items():
        if not re.fullmatch(form, str(header.get(keyword))):
            setattr(header, keyword, "")
    return header


def _segmentation(source: Dataset, mask: npt.NDArray[np.uint8], measurement: Measurement) -> Dataset:
    """One binary segment a class; also an empty one, so that nobody takes it for forgotten.

    It has the scan's rows and columns and no pixel size of its own: a projection has no slice thickness, without which
    highdicom reads no pixel size.
    """
    automatic = measurement.mask_source == "network"
    algorithm = hd.AlgorithmIdentificationSequence(
        name=SOFTWARE, family=codes.DCM.ArtificialIntelligence, version=__version__, source=MAKER
    )
    segments = [
        seg.SegmentDescription(
            segment_number=item.id,
            segment_label=item.label,
            segmented_property_category=codes.SCT.AnatomicalStructure,
            segmented_property_type=Code(*SEGMENT_CODES[item.name][0]),
            algorithm_type="AUTOMATIC" if automatic else "MANUAL",
            algorithm_identification=algorithm if automatic else None,
            anatomic_regions=[Code(*SEGMENT_CODES[item.name][1])],
            display_color=hd.color.CIELabColor.from_rgb(*item.colour),
        )
        for item in FOREGROUND
    ]
    seen = Dataset()
    seen.update(source)
    seen.SharedFunctionalGroupsSequence = [Dataset()]  # highdicom looks there for the pixel size of multi-frame kinds
    seen.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence = [Dataset()]
    made: Dataset = seg.Segmentation(
        source_images=[seen],
        pixel_array=np.stack([mask == item.id for item in FOREGROUND], axis=-1)[None].astype(np.uint8),
        segmentation_type="BINARY",
        segment_descriptions=segments,
        series_number=9001,
        content_label="SA2NET",
        content_description="Spine, research use only",
        series_description="SA2Net label map, research use only",
        omit_empty_frames=False,
        **_instance(measurement),
    )
    for shared in made.SharedFunctionalGroupsSequence:
        shared.pop("PixelMeasuresSequence", None)
    made.PatientOrientation = ""  # type 2 where there is no patient coordinate system
    return made


def _report(source: Dataset, measurement: Measurement) -> Dataset:
    """TID 1500: one measurement group a curve, or one that holds the reasons why there is none."""
    groups = [_curve(source, measurement, index) for index in range(len(measurement.curves))]
    if not groups:
        groups = [_group(source, measurement, "no angle", finding=REFUSED)]
    texts = [f"Refused ({refusal.code}): {refusal.reason}" for refusal in measurement.refusals]
    texts += [f"Note: {warning}" for warning in measurement.warnings]
    texts += [f"Orientation: {measurement.orientation}"]
    if measurement.severity is not None:
        said = measurement.severity
        texts.append(f"Severity by a configured table ({said.source}): {said.word}. {said.note}")
    _comment(groups[0], texts)
    observer = sr.ObserverContext(
        observer_type=codes.DCM.Device,
        observer_identifying_attributes=sr.DeviceObserverIdentifyingAttributes(
            uid=hd.UID(), name=SOFTWARE, manufacturer_name=MAKER, model_name=f"{SOFTWARE} {__version__}"
        ),
    )
    content = sr.MeasurementReport(
        observation_context=sr.ObservationContext(observer_device_context=observer),
        procedure_reported=codes.SCT.ImagingProcedure,
        imaging_measurements=groups,
        title=codes.DCM.ImagingMeasurementReport,
    )
    made: Dataset = sr.ComprehensiveSR(
        evidence=[source],
        content=content[0],
        series_number=9002,
        is_complete=True,
        series_description="SA2Net curve angles, research use only",
        coding_schemes=[CodingSchemeIdentificationItem(SCHEME, name="SA2Net pipeline", version="1")],
        **_instance(measurement),
    )
    return made


def _instance(measurement: Measurement) -> dict[str, Any]:
    """What is said of the maker, and new UIDs."""
    return {
        "series_instance_uid": hd.UID(),
        "sop_instance_uid": hd.UID(),
        "instance_number": 1,
        "manufacturer": MAKER,
        "manufacturer_model_name": SOFTWARE,
        "software_versions": __version__,
        "device_serial_number": measurement.model.sha256[:16] or "label map given",
        "transfer_syntax_uid": ExplicitVRLittleEndian,
    }


def _curve(source: Dataset, measurement: Measurement, index: int) -> sr.MeasurementsAndQualitativeEvaluations:
    curve = measurement.curves[index]
    group = _group(
        source,
        measurement,
        f"curve {index + 1}",
        finding=CURVE,
        sites=[sr.FindingSite(REGIONS[curve.region])],
        measurements=_angles(curve),
        evaluations=[
            sr.QualitativeEvaluation(CONVEX, SIDES[curve.convex]),
            *(sr.QualitativeEvaluation(name, _level(getattr(curve, key))) for key, name in ENDS.items()),
        ],
    )
    texts = [f"Levels: {curve.upper_end} to {curve.lower_end}, apex {curve.apex}"]
    if not curve.region_certain:
        texts.append("The region is not certain.")
    if curve.open_above or curve.open_below:
        where = " and ".join(
            way for way, is_open in (("above", curve.open_above), ("below", curve.open_below)) if is_open
        )
        texts.append(f"The curve may go on {where}: it ends where the visible spine ends, and may be larger.")
    _comment(group, texts)
    return group


def _angles(curve: CurveResult) -> list[sr.Measurement]:
    values = (
        (ANGLE, curve.angle_deg),
        (STANDARD_ERROR, curve.standard_error_deg),
        (LOW, curve.interval_90_deg[0]),
        (HIGH, curve.interval_90_deg[1]),
    )
    return [sr.Measurement(name=name, value=value, unit=codes.UCUM.Degree) for name, value in values]


def _group(
    source: Dataset,
    measurement: Measurement,
    title: str,
    *,
    finding: Code,
    sites: list[sr.FindingSite] | None = None,
    measurements: list[sr.Measurement] | None = None,
    evaluations: list[sr.QualitativeEvaluation] | None = None,
) -> sr.MeasurementsAndQualitativeEvaluations:
    """A measurement group (TID 1501) about the scan."""
    made_by = measurement.model.sha256 or "none, label map given"
    group = sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(uid=hd.UID(), identifier=title),
        finding_type=finding,
        algorithm_id=sr.AlgorithmIdentification(SOFTWARE, __version__, parameters=[f"network: {made_by}"]),
        finding_sites=sites,
        measurements=measurements,
        qualitative_evaluations=evaluations,
        source_images=[sr.SourceImageForMeasurementGroup(source.SOPClassUID, source.SOPInstanceUID)],
    )
    _comment(group, [NOTE])
    return group


def _comment(group: sr.MeasurementsAndQualitativeEvaluations, texts: list[str]) -> None:
    """Sentences for a person, in a group."""
    group[0].ContentSequence.extend(
        sr.TextContentItem(codes.DCM.Comment, text, sr.RelationshipTypeValues.CONTAINS) for text in texts
    )


def _level(label: str) -> Code:
    """Code of a level: the vertebra where it has a name, else its number from the top."""
    if re.fullmatch(r"T([1-9]|1[0-2])|L[1-5]", label):
        vertebra: Code = getattr(codes.SCT, f"{label}Vertebra")
        return vertebra
    return Code(f"level_{label}", SCHEME, f"Level {label} from the top")


def _encoded(dataset: Dataset) -> bytes:
    stream = BytesIO()
    dataset.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def _write(path: Path, content: bytes) -> Path:
    """Write a file atomically, for its owner alone: it holds who was scanned."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    return path
