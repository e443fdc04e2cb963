"""Teaching helpers of the ten notebooks; nothing that DreamerV3 itself needs."""

from dreamer_lite.course.cells import rssm_cell
from dreamer_lite.course.checks import claim, compare
from dreamer_lite.course.diagrams import dreamer_map
from dreamer_lite.course.display import read_gif, show, show_gif, show_image
from dreamer_lite.course.dream import action_pad, scrub
from dreamer_lite.course.exercises import check, solution
from dreamer_lite.course.figures import error_frames, frames_grid, side_by_side, strip
from dreamer_lite.course.modules import reexport, what_we_built
from dreamer_lite.course.paths import data_path
from dreamer_lite.course.phases import behaviour_phase, two_phases, world_model_phase
from dreamer_lite.course.sliders import Choice, Slider, explore
from dreamer_lite.course.style import COLORS, LINESTYLES, MARKERS, line, use_style
from dreamer_lite.course.timelines import alignment, lambda_recursion

__all__ = [
    "COLORS",
    "Choice",
    "LINESTYLES",
    "MARKERS",
    "Slider",
    "action_pad",
    "alignment",
    "behaviour_phase",
    "check",
    "claim",
    "compare",
    "data_path",
    "dreamer_map",
    "error_frames",
    "explore",
    "frames_grid",
    "lambda_recursion",
    "line",
    "read_gif",
    "reexport",
    "rssm_cell",
    "scrub",
    "show",
    "show_gif",
    "show_image",
    "side_by_side",
    "solution",
    "strip",
    "two_phases",
    "use_style",
    "what_we_built",
    "world_model_phase",
]
