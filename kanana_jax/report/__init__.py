"""What runs leave behind: metrics, a progress bar, and HTML reports with tables and curves.

Callers say which metrics there are and what a comparison asks.

matplotlib, jinja2, tensorboardX and tqdm are imported where they are used, so that importing this
package costs nothing.
"""

from kanana_jax.report import comparison as comparison
from kanana_jax.report import curves as curves
from kanana_jax.report import metrics as metrics
from kanana_jax.report import progress as progress
from kanana_jax.report import results as results
from kanana_jax.report import single as single
