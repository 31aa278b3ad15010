"""SA2Net: spine segmentation in ultrasound volume projection images, as a traceable pipeline."""

__version__ = "0.1.0"
