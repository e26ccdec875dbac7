"""How recognition falls as crops and joints get worse: `python scripts/gait_misalignment.py --help`.

The gait counterpart of figures 5 and 6 of Kim et al., "KeyPoint Relative Position Encoding for Face Recognition",
CVPR 2024, https://arxiv.org/abs/2403.14852: there, verification of faces over ever worse alignment, and over noise on
the landmarks. Deliberate differences: crops are misaligned at random instead of interpolated between two alignments,
joints can also be lost, and every model is trained with several seeds.
"""

from plugin.misalignment.experiment import Candidate, Run, claim_folder, load_candidates, run_seed
from plugin.misalignment.report import draw_report, format_report
from plugin.misalignment.sweeps import SWEEPS, Sweep, all_conditions

__all__ = [
    "SWEEPS",
    "Candidate",
    "Run",
    "Sweep",
    "all_conditions",
    "claim_folder",
    "draw_report",
    "format_report",
    "load_candidates",
    "run_seed",
]
