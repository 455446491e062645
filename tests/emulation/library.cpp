#include <torch/csrc/stable/library.h>

// The namespace that the emulated kernels live in; each .cu file adds its family.
STABLE_TORCH_LIBRARY(septet_emulated, m) {
  (void)m;
}
