#include "places.h"

#include <dlfcn.h>
#include <link.h>
#include <pthread.h>

#include <cstdio>
#include <string_view>

namespace septet::emulation {
namespace {

const char kAnchor = 0;  // an address in this library

struct Search {
  LibraryMemory* memory;
  std::uintptr_t base;
};

int visit(dl_phdr_info* info, std::size_t, void* data) {
  const Search& search = *static_cast<Search*>(data);
  if (info->dlpi_addr != search.base) return 0;
  for (int i = 0; i < info->dlpi_phnum; ++i) {
    const auto& segment = info->dlpi_phdr[i];
    if (segment.p_type != PT_LOAD) continue;
    const std::uintptr_t begin = info->dlpi_addr + segment.p_vaddr;
    const bool writable = (segment.p_flags & PF_W) != 0;
    auto& ranges = writable ? search.memory->variable : search.memory->constant;
    ranges.emplace_back(begin, begin + segment.p_memsz);
  }
  return 1;
}

// Of the frames of an inlined call, innermost first, the one in a kernel source and not in a
// header that serves all of them.
std::string choose_line(std::FILE* lines) {
  std::string chosen;
  char buffer[1024];
  while (std::fgets(buffer, sizeof(buffer), lines) != nullptr) {
    std::string_view line(buffer);
    line = line.substr(0, line.find_first_of(" \n"));
    const bool kernel = line.find(".cu") != line.npos && line.find("/launch/") == line.npos;
    if (line.find("??") != line.npos || (!chosen.empty() && !kernel)) continue;
    chosen = line;
    if (kernel) break;
  }
  return chosen;
}

}  // namespace

LibraryMemory::LibraryMemory() {
  Dl_info info{};
  if (dladdr(&kAnchor, &info) == 0) return;
  Search search{this, reinterpret_cast<std::uintptr_t>(info.dli_fbase)};
  dl_iterate_phdr(visit, &search);
}

Range host_stack() {
  pthread_attr_t attributes;
  void* bottom = nullptr;
  std::size_t bytes = 0;
  if (pthread_getattr_np(pthread_self(), &attributes) == 0) {
    pthread_attr_getstack(&attributes, &bottom, &bytes);
    pthread_attr_destroy(&attributes);
  }
  return {bottom, bytes};
}

std::string source_of(std::uintptr_t caller) {
  Dl_info info{};
  // A return address points behind the call.
  const auto* const address = reinterpret_cast<const char*>(caller - 1);
  if (dladdr(address, &info) == 0) return "an unknown place";
  char text[64];
  std::snprintf(text, sizeof(text), "0x%zx",
                static_cast<std::size_t>(address - static_cast<const char*>(info.dli_fbase)));
  const std::string command =
      std::string("addr2line -i -e '") + info.dli_fname + "' " + text + " 2>/dev/null";
  std::string line;
  if (std::FILE* const lines = popen(command.c_str(), "r")) {
    line = choose_line(lines);
    pclose(lines);
  }
  return line.empty() ? std::string(info.dli_fname) + "+" + text : line;
}

}  // namespace septet::emulation
