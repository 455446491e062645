// septet._host: the kernels on numpy buffers, the report on the build, and a probe of this machine.
// Uses neither torch nor its threads.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <memory>
#include <string>
#include <vector>

#include "functors/philox.h"
#include "launch/isa.h"
#include "ops/attention.h"
#include "ops/conv_schedule.h"
#include "ops/mt19937.h"
#include "ops/norm.h"
#include "ops/step.h"
#include "ops/threshold.h"
#include "ops/wavenet.h"
#include "probes.h"

namespace py = pybind11;

namespace septet {
namespace {

using OptionalArray = std::optional<py::array>;

Dtype dtype_of(const py::array& array) {
  const std::string kind(1, array.dtype().kind());
  const auto size = array.dtype().itemsize();
  if (kind == "f" && size == 4) return Dtype::float32;
  if (kind == "f" && size == 8) return Dtype::float64;
  if (kind == "f" && size == 2) return Dtype::float16;
  if (kind == "u" && size == 2) return Dtype::bfloat16;  // numpy has no bfloat16: its bits
  if (kind == "i" && size == 8) return Dtype::int64;
  if (kind == "u" && size == 1) return Dtype::uint8;
  return Dtype::other;
}

// Keeps the strides, in elements, beside the view that points to them.
struct NumpyView {
  std::vector<int64_t> sizes, strides;
  TensorView view;

  NumpyView(const OptionalArray& array, const char* op, const char* name, bool writable = false) {
    if (!array) return;
    sizes.assign(array->shape(), array->shape() + array->ndim());
    for (py::ssize_t i = 0; i < array->ndim(); ++i) {
      require(array->strides(i) % array->itemsize() == 0, op, name, " must be aligned");
      strides.push_back(array->strides(i) / array->itemsize());
    }
    require(!writable || array->writeable(), op, name, " must be writable");
    view.data = const_cast<void*>(array->data());
    view.dtype = dtype_of(*array);
    view.dim = array->ndim();
    view.sizes = sizes.data();
    view.strides = strides.data();
    view.present = true;
  }
};

void step(const py::array& sample, const py::array& model_output, const py::array& table,
          int64_t row, const py::array& prev_sample, const OptionalArray& pred_original_sample,
          const OptionalArray& slots, const std::vector<py::array>& stored,
          const OptionalArray& uncond_output, const OptionalArray& counter,
          const OptionalArray& threshold, const OptionalArray& mu, const OptionalArray& mask,
          const OptionalArray& noise, const OptionalArray& philox, int64_t philox_increment,
          int64_t philox_threads) {
  const char* op = "step";
  const NumpyView views[] = {
      {sample, op, "sample"},
      {model_output, op, "model_output"},
      {table, op, "table"},
      {prev_sample, op, "prev_sample", true},
      {pred_original_sample, op, "pred_original_sample", true},
      {slots, op, "slots", true},
      {uncond_output, op, "uncond_output"},
      {counter, op, "counter"},
      {threshold, op, "threshold"},
      {mu, op, "mu"},
      {mask, op, "mask"},
      {noise, op, "noise"},
      {philox, op, "philox"},
  };
  std::vector<NumpyView> stored_views;
  stored_views.reserve(stored.size());
  std::vector<TensorView> stored_tensors;
  for (const py::array& array : stored) {
    stored_tensors.push_back(stored_views.emplace_back(array, op, "stored[k]").view);
  }
  StepTensors tensors{
      views[0].view,    views[1].view,  views[2].view,  views[3].view,  views[4].view,
      views[5].view,    stored_tensors, views[6].view,  views[7].view,  views[8].view,
      views[9].view,    views[10].view, views[11].view, views[12].view, row,
      philox_increment, philox_threads};
  const StepArgs args = plan_step(tensors);
  const StepRange range = SEPTET_CALL_ISA(step_range, tensors.sample.dtype);
  const py::gil_scoped_release release;
  range(args, 0, args.layout.numel);
}

void philox_normal(const py::array& out, const py::array& philox, int64_t increment,
                   int64_t threads) {
  const NumpyView target(out, "philox_normal", "out", true);
  const NumpyView pairs(philox, "philox_normal", "philox");
  const PhiloxArgs args = plan_normal(target.view, pairs.view, increment, threads);
  const NormalRange range = SEPTET_CALL_ISA(normal_range, target.view.dtype);
  const py::gil_scoped_release release;
  range(args, target.view.data, 0, args.layout.numel);
}

void mt19937_normal(const py::array& out, const py::array& state) {
  const NumpyView target(out, "mt19937_normal", "out", true);
  const NumpyView generator(state, "mt19937_normal", "state", true);
  const Mt19937Args args = plan_mt19937(target.view, generator.view);
  const py::gil_scoped_release release;
  draw_mt19937(args, [](int64_t count, const auto& range) { range(int64_t{0}, count); });
}

void group_norm_act(const py::array& input, const OptionalArray& rest, int64_t num_groups,
                    const OptionalArray& weight, const OptionalArray& bias, double eps,
                    int64_t activation, const OptionalArray& scale_shift, const OptionalArray& mask,
                    const py::array& out) {
  const char* op = "group_norm_act";
  const NumpyView views[] = {{input, op, "input"},
                             {rest, op, "rest"},
                             {weight, op, "weight"},
                             {bias, op, "bias"},
                             {scale_shift, op, "scale_shift"},
                             {mask, op, "mask"},
                             {out, op, "out", true}};
  const NormTensors tensors{views[0].view, views[1].view, views[2].view, views[3].view,
                            views[4].view, views[5].view, views[6].view, num_groups,
                            eps,           activation};
  const NormArgs args = plan_norm(tensors);
  const NormKernels kernels = SEPTET_CALL_ISA(norm_kernels, tensors.input.dtype);
  const py::gil_scoped_release release;
  normalise(args, kernels, [&](const auto& range) { range(int64_t{0}, norm_tasks(args)); });
}

void attention(const py::array& query, const py::array& key, const py::array& value,
               const OptionalArray& bias, const OptionalArray& prefix_key,
               const OptionalArray& prefix_value, double scale, const py::array& out) {
  const char* op = "attention";
  const NumpyView views[] = {{query, op, "query"},           {key, op, "key"},
                             {value, op, "value"},           {bias, op, "bias"},
                             {prefix_key, op, "prefix_key"}, {prefix_value, op, "prefix_value"},
                             {out, op, "out", true}};
  const AttentionTensors tensors{views[0].view, views[1].view, views[2].view, views[3].view,
                                 views[4].view, views[5].view, views[6].view, scale};
  AttentionArgs args = plan_attention(tensors);
  args.task_rows = attention_task_rows(args, 1);
  const AttentionRange range = SEPTET_CALL_ISA(attention_range, tensors.query.dtype);
  const py::gil_scoped_release release;
  range(args, 0, attention_tasks(args));
}

void wavenet_layer(const py::array& input, const py::array& step, const py::array& mel,
                   const py::array& weight, const py::array& bias, const py::array& residual_weight,
                   const py::array& residual_bias, const py::array& skip_weight,
                   const py::array& skip_bias, const OptionalArray& mask, int64_t dilation,
                   bool accumulate, const OptionalArray& out, const py::array& skips) {
  const char* op = "wavenet_layer";
  const NumpyView views[] = {{input, op, "input"},
                             {step, op, "step"},
                             {mel, op, "mel"},
                             {weight, op, "weight"},
                             {bias, op, "bias"},
                             {residual_weight, op, "residual_weight"},
                             {residual_bias, op, "residual_bias"},
                             {skip_weight, op, "skip_weight"},
                             {skip_bias, op, "skip_bias"},
                             {mask, op, "mask"},
                             {out, op, "out", true},
                             {skips, op, "skips", true}};
  const WaveNetTensors tensors{views[0].view, views[1].view, views[2].view,  views[3].view,
                               views[4].view, views[5].view, views[6].view,  views[7].view,
                               views[8].view, views[9].view, views[10].view, views[11].view,
                               dilation,      accumulate};
  const WaveNetArgs args = plan_wavenet(tensors);
  const WaveNetKernels kernels = SEPTET_CALL_ISA(wavenet_kernels, tensors.input.dtype);
  const py::gil_scoped_release release;
  run_wavenet_layer(args, kernels,
                    [](int64_t count, const auto& range) { range(int64_t{0}, count); });
}

void threshold_quantile(const py::array& sample, const py::array& model_output,
                        const py::array& table, int64_t row, const OptionalArray& uncond_output,
                        double ratio, double maximum, const py::array& out) {
  const char* op = "threshold_quantile";
  const NumpyView views[] = {{sample, op, "sample"},
                             {model_output, op, "model_output"},
                             {table, op, "table"},
                             {uncond_output, op, "uncond_output"},
                             {out, op, "out", true}};
  ThresholdTensors tensors;
  tensors.step.sample = views[0].view;
  tensors.step.model_output = views[1].view;
  tensors.step.table = views[2].view;
  tensors.step.row = row;
  tensors.step.uncond = views[3].view;
  tensors.ratio = ratio;
  tensors.maximum = maximum;
  tensors.out = views[4].view;
  const ThresholdArgs args = plan_threshold(tensors);
  const ThresholdRange range = SEPTET_CALL_ISA(threshold_range, tensors.step.sample.dtype);
  const py::gil_scoped_release release;
  range(args, 0, args.samples, 1, nullptr);
}

void conv2d(const py::array& input, const OptionalArray& rest, const py::array& weight,
            const std::vector<int64_t>& kernel_size, int64_t algorithm, const OptionalArray& bias,
            const OptionalArray& shift, const OptionalArray& residual,
            const std::vector<int64_t>& stride, const std::vector<int64_t>& padding,
            const std::vector<int64_t>& dilation, int64_t upscale, const py::array& out) {
  const char* op = "conv2d";
  const NumpyView views[] = {
      {input, op, "input"}, {rest, op, "rest"},         {weight, op, "weight"}, {bias, op, "bias"},
      {shift, op, "shift"}, {residual, op, "residual"}, {out, op, "out", true}};
  const ConvArgs args = plan_conv({views[0].view, views[1].view, views[2].view, views[3].view,
                                   views[4].view, views[5].view, views[6].view, algorithm, upscale,
                                   kernel_size, stride, padding, dilation});
  const ConvKernels kernels = SEPTET_CALL_ISA(conv_kernels, args.algorithm);
  const py::gil_scoped_release release;
  std::unique_ptr<float[]> memory[2];
  convolve(
      args, kernels, 1, [](int64_t tasks, int64_t, const auto& range) { range(int64_t{0}, tasks); },
      [&](bool own, int64_t floats) {
        memory[own].reset(new float[static_cast<size_t>(floats)]);
        return memory[own].get();
      });
}

void conv2d_pack(const py::array& weight, const py::array& out) {
  const NumpyView from(weight, "conv2d_pack", "weight");
  const NumpyView to(out, "conv2d_pack", "out", true);
  const ConvPackArgs args = plan_conv_pack(from.view, to.view);
  const py::gil_scoped_release release;
  SEPTET_CALL_ISA(conv_pack, args, 0, groups_of(args.out_channels));
}

std::vector<uint32_t> philox4x32_words(const std::vector<uint32_t>& counter,
                                       const std::vector<uint32_t>& key) {
  require(counter.size() == 4 && key.size() == 2, "philox4x32",
          "counter must hold 4 words and key 2");
  const PhiloxBlock<uint32_t> block =
      philox4x32<uint32_t>({counter[0], counter[1], counter[2], counter[3]}, key[0], key[1]);
  return {block.x, block.y, block.z, block.w};
}

// Applies exp, log, sin or cos of functors/math.h to every element, for the accuracy tests.
py::array_t<float> elementary(const std::string& name, const py::array_t<float>& values) {
  py::array_t<float> result(values.size());
  for (py::ssize_t i = 0; i < values.size(); ++i) {
    const float x = values.data()[i];
    float sine = 0, cosine = 0;
    if (name == "sin" || name == "cos") sincos(x, sine, cosine);
    result.mutable_data()[i] = name == "exp"   ? exp(x)
                               : name == "log" ? log(x)
                               : name == "sin" ? sine
                                               : cosine;
  }
  return result;
}

py::dict build_info() {
  std::vector<std::string> isas;
  for (Isa isa : available_isas()) isas.push_back(isa_name(isa));
  py::dict info;
  info["version"] = SEPTET_VERSION;
  info["compiler"] = __VERSION__;
  info["torch_abi_target"] = SEPTET_TORCH_ABI_TARGET;
  info["built_with_torch"] = SEPTET_BUILD_TORCH;
  info["cuda_archs"] = SEPTET_CUDA_ARCHS;
  info["cpu_isas"] = isas;
  info["cpu_isa"] = isa_name(selected_isa());
  return info;
}

}  // namespace
}  // namespace septet

PYBIND11_MODULE(_host, m, py::mod_gil_not_used()) {
  m.doc() = "The septet kernels on numpy buffers, and the report on this build.";
  m.attr("TABLE_COLUMNS") = septet::kTableColumns;
  m.def("build_info", &septet::build_info, "Return the facts of this build as a dict.");
  m.def("step", &septet::step, py::arg("sample"), py::arg("model_output"), py::arg("table"),
        py::arg("row"), py::arg("prev_sample"), py::arg("pred_original_sample") = py::none(),
        py::arg("slots") = py::none(), py::arg("stored") = std::vector<py::array>{},
        py::arg("uncond_output") = py::none(), py::arg("counter") = py::none(),
        py::arg("threshold") = py::none(), py::arg("mu") = py::none(), py::arg("mask") = py::none(),
        py::arg("noise") = py::none(), py::arg("philox") = py::none(),
        py::arg("philox_increment") = 0, py::arg("philox_threads") = 0,
        "Apply one table row to numpy arrays; see septet.ops.step. bfloat16 is passed as uint16.");
  m.def("philox_normal", &septet::philox_normal, py::arg("out"), py::arg("philox"),
        py::arg("increment") = 0, py::arg("threads") = 0,
        "Fill a numpy array with standard normals; see septet.ops.philox_normal.");
  m.def("mt19937_normal", &septet::mt19937_normal, py::arg("out"), py::arg("state"),
        "Fill a float32 array with torch's CPU normals; see septet.ops.mt19937_normal.");
  m.def("group_norm_act", &septet::group_norm_act, py::arg("input"), py::arg("rest"),
        py::arg("num_groups"), py::arg("weight"), py::arg("bias"), py::arg("eps"),
        py::arg("activation"), py::arg("scale_shift"), py::arg("mask"), py::arg("out"),
        "Normalise groups of channels of a numpy array; see septet.ops.group_norm_act.");
  m.def("attention", &septet::attention, py::arg("query"), py::arg("key"), py::arg("value"),
        py::arg("bias"), py::arg("prefix_key"), py::arg("prefix_value"), py::arg("scale"),
        py::arg("out"), "Attend to the keys of numpy arrays; see septet.ops.attention.");
  m.def("wavenet_layer", &septet::wavenet_layer, py::arg("input"), py::arg("step"), py::arg("mel"),
        py::arg("weight"), py::arg("bias"), py::arg("residual_weight"), py::arg("residual_bias"),
        py::arg("skip_weight"), py::arg("skip_bias"), py::arg("mask"), py::arg("dilation"),
        py::arg("accumulate"), py::arg("out"), py::arg("skips"),
        "Run a layer of DiffWave on numpy arrays; see septet.ops.wavenet_layer.");
  m.def("conv2d", &septet::conv2d, py::arg("input"), py::arg("rest"), py::arg("weight"),
        py::arg("kernel_size"), py::arg("algorithm"), py::arg("bias"), py::arg("shift"),
        py::arg("residual"), py::arg("stride"), py::arg("padding"), py::arg("dilation"),
        py::arg("upscale"), py::arg("out"),
        "Convolve numpy arrays with packed weights; see septet.ops.conv2d.");
  m.def("conv2d_pack", &septet::conv2d_pack, py::arg("weight"), py::arg("out"),
        "Pack the weights of a convolution; see septet.ops.pack_conv2d.");
  m.def("threshold_quantile", &septet::threshold_quantile, py::arg("sample"),
        py::arg("model_output"), py::arg("table"), py::arg("row"), py::arg("uncond_output"),
        py::arg("ratio"), py::arg("maximum"), py::arg("out"),
        "Bound the clean samples of numpy arrays; see septet.ops.threshold_quantile.");
  m.def("philox4x32", &septet::philox4x32_words, py::arg("counter"), py::arg("key"),
        "Return the four words of one Philox4x32-10 block.");
  m.def("elementary", &septet::elementary, py::arg("name"), py::arg("values"),
        "Apply one of the kernels' own functions (exp, log, sin, cos) to a float32 array.");
  m.def("fma_peak", &septet::fma_peak, py::arg("threads"), py::arg("seconds"),
        py::call_guard<py::gil_scoped_release>(),
        "Return the float32 operations per second of multiply-adds in registers.");
}
