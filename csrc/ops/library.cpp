#include <torch/csrc/stable/library.h>

// The one definition of the namespace; every family adds to it with a fragment.
STABLE_TORCH_LIBRARY(septet, m) {
  (void)m;
}
