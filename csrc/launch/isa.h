// Which instruction set the CPU kernels use, and how a kernel of that set is found.
//
// A `<family>.simd.cpp` is compiled once per set, each time inside a namespace of the set's name,
// so `SEPTET_DECLARE_PER_ISA` and `SEPTET_CALL_ISA` are all that a family needs.
#pragma once

#include <string>
#include <vector>

namespace septet {

enum class Isa { baseline, avx2, avx2_wide, avx512 };

// The set in use: SEPTET_CPU_ISA if given, else the widest this machine has. Throws
// std::invalid_argument for a name that is unknown or not available here.
Isa selected_isa();

const char* isa_name(Isa isa);

// The sets that were compiled in and that this machine can run.
std::vector<Isa> available_isas();

}  // namespace septet

#if defined(__x86_64__)
#define SEPTET_FOR_X86(X) X
#else
#define SEPTET_FOR_X86(X)
#endif

#define SEPTET_DECLARE_PER_ISA(declaration)                                                   \
  namespace septet {                                                                          \
  namespace baseline {                                                                        \
  declaration;                                                                                \
  }                                                                                           \
  SEPTET_FOR_X86(                                                                             \
      namespace avx2 { declaration; } namespace avx2_wide { declaration; } namespace avx512 { \
        declaration;                                                                          \
      })                                                                                      \
  }

#define SEPTET_CALL_ISA(function, ...)                                                       \
  [&] {                                                                                      \
    switch (::septet::selected_isa()) {                                                      \
      SEPTET_FOR_X86(                                                                        \
          case ::septet::Isa::avx2 : return ::septet::avx2::function(__VA_ARGS__);           \
          case ::septet::Isa::avx2_wide : return ::septet::avx2_wide::function(__VA_ARGS__); \
          case ::septet::Isa::avx512 : return ::septet::avx512::function(__VA_ARGS__);)      \
      default:                                                                               \
        return ::septet::baseline::function(__VA_ARGS__);                                    \
    }                                                                                        \
  }()
