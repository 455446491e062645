#include "launch/isa.h"

#include <cstdlib>
#include <stdexcept>

namespace septet {
namespace {

bool runs_here(Isa isa) {
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                    __builtin_cpu_supports("f16c");
  switch (isa) {
    case Isa::baseline:
      return true;
    case Isa::avx2:
    case Isa::avx2_wide:
      return avx2;
    case Isa::avx512:
      return avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
             __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  }
  return false;
#else
  return isa == Isa::baseline;
#endif
}

Isa choose() {
  const char* wanted = std::getenv("SEPTET_CPU_ISA");
  if (wanted == nullptr || *wanted == '\0' || std::string(wanted) == "auto") {
    for (Isa isa : {Isa::avx512, Isa::avx2}) {
      if (runs_here(isa)) return isa;
    }
    return Isa::baseline;
  }
  std::string names;
  for (Isa isa : available_isas()) {
    if (std::string(wanted) == isa_name(isa)) return isa;
    names += std::string(names.empty() ? "" : ", ") + isa_name(isa);
  }
  throw std::invalid_argument("septet.cpu_isa: SEPTET_CPU_ISA must be auto or one of " + names +
                              " on this machine, got '" + wanted + "'");
}

}  // namespace

const char* isa_name(Isa isa) {
  switch (isa) {
    case Isa::avx2:
      return "avx2";
    case Isa::avx2_wide:
      return "avx2_wide";
    case Isa::avx512:
      return "avx512";
    default:
      return "baseline";
  }
}

std::vector<Isa> available_isas() {
  std::vector<Isa> isas;
  for (Isa isa : {Isa::baseline, Isa::avx2, Isa::avx2_wide, Isa::avx512}) {
    if (runs_here(isa)) isas.push_back(isa);
  }
  return isas;
}

Isa selected_isa() {
  static const Isa isa = choose();
  return isa;
}

}  // namespace septet
