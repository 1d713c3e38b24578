"""What would silently go wrong in a run, found before it: see docs/doctor.md."""

from exnihilo.doctor.examine import diagnose
from exnihilo.doctor.report import Diagnosis, Finding, Sample

__all__ = ["Diagnosis", "Finding", "Sample", "diagnose"]
