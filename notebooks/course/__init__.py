"""Teaching helpers of the ten notebooks; nothing that DreamerV3 itself needs."""

from course.paths import prepare

prepare()

from course.cells import rssm_cell, rssm_unrolled, straight_through
from course.checks import claim, compare
from course.columns import read_columns
from course.diagrams import dreamer_map
from course.display import progress, read_gif, show, show_gif
from course.dream import action_pad, scrub
from course.exercises import check, hint, solution
from course.figures import (
    error_frames,
    filmstrips,
    frames_grid,
    side_by_side,
    strip,
    zoomed,
)
from course.modules import reexport, what_we_built
from course.paths import data_path
from course.phases import behaviour_phase, two_phases, world_model_phase
from course.shares import loss_shares
from course.sliders import Choice, Slider, explore
from course.style import COLORS, LINESTYLES, line, use_style
from course.timelines import alignment, lambda_recursion
