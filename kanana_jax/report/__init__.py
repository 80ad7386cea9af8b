"""What a run leaves behind: metrics, a progress bar, plots, and a self-contained HTML report.

matplotlib, jinja2, tensorboardX and tqdm are imported where they are used, so that importing this
package costs nothing.
"""

from kanana_jax.report import metrics as metrics
from kanana_jax.report import plots as plots
from kanana_jax.report import progress as progress
from kanana_jax.report import results as results
from kanana_jax.report import single as single
from kanana_jax.report import stress as stress
from kanana_jax.report import verdict as verdict
