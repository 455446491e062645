#include <cstdlib>
#include <memory>

#include "launch/parallel.h"
#include "ops/conv_schedule.h"
#include "ops/torch.h"

namespace septet {
namespace {

// Multiply-adds below which a second thread does not pay.
constexpr int64_t kGrain = 1 << 18;

// Memory that a thread keeps for the next convolution.
class Scratch {
 public:
  float* floats(int64_t count) {
    if (count > count_) {
      memory_.reset();
      const auto bytes = static_cast<std::size_t>((count + 15) / 16 * 16) * sizeof(float);
      memory_.reset(static_cast<float*>(std::aligned_alloc(64, bytes)));
      if (memory_ == nullptr) throw std::bad_alloc();
      count_ = count;
    }
    return memory_.get();
  }

 private:
  struct Free {
    void operator()(float* memory) const { std::free(memory); }
  };
  std::unique_ptr<float, Free> memory_;
  int64_t count_ = 0;
};

void run_conv(const ConvTensors& tensors) {
  const ConvArgs args = plan_conv(tensors);
  thread_local Scratch shared, own;
  const auto split = [](int64_t tasks, int64_t work, const auto& range) {
    parallel_shares(tasks, work, kGrain, range);
  };
  convolve(args, SEPTET_CALL_ISA(conv_kernels, args.algorithm), torch::stable::get_num_threads(),
           split, [](bool mine, int64_t floats) { return (mine ? own : shared).floats(floats); });
}

void run_conv_pack(const TensorView& weight, const TensorView& out) {
  const ConvPackArgs args = plan_conv_pack(weight, out);
  parallel_tasks(out.size(0), out.numel(), kGrain,
                 [&](int64_t begin, int64_t end) { SEPTET_CALL_ISA(conv_pack, args, begin, end); });
}

void boxed_conv2d(Tensor input, std::optional<Tensor> rest, Tensor weight,
                  std::vector<int64_t> kernel_size, int64_t algorithm, std::optional<Tensor> bias,
                  std::optional<Tensor> shift, std::optional<Tensor> residual,
                  std::vector<int64_t> stride, std::vector<int64_t> padding,
                  std::vector<int64_t> dilation, int64_t upscale, Tensor out) {
  run_conv({view(input), view(rest), view(weight), view(bias), view(shift), view(residual),
            view(out), algorithm, upscale, std::move(kernel_size), std::move(stride),
            std::move(padding), std::move(dilation)});
}

void boxed_conv2d_pack(Tensor weight, Tensor out) {
  run_conv_pack(view(weight), view(out));
}

}  // namespace
}  // namespace septet

STABLE_TORCH_LIBRARY_FRAGMENT(septet, m) {
  m.def(septet::kConvSchema);
  m.def(septet::kConvPackSchema);
}

STABLE_TORCH_LIBRARY_IMPL(septet, CPU, m) {
  m.impl("conv2d", TORCH_BOX(&septet::boxed_conv2d));
  m.impl("conv2d_pack", TORCH_BOX(&septet::boxed_conv2d_pack));
}
