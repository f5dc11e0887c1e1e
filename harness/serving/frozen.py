"""Imported last by the process that workers are forked from: what it holds is there to stay.

The collector writes into every object it visits, and what a fork writes to is shared no longer.
"""

import gc

gc.collect()
gc.freeze()
