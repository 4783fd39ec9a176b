"""What the stage scripts share.

The two variables must be set before torch loads its libraries. OpenMP threads that spin while another process wants
their core make training ten times slower; cuBLAS is deterministic only with a fixed workspace.
"""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
