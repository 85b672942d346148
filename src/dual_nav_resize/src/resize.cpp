// The two passes of a separable resize, with the arithmetic of Pillow: bytes with weights that are fixed-point numbers,
// floats with weights and sums that are doubles; what the first pass leaves is rounded to the type of the image.
// Weights come from the caller: output n is made of the inputs first[n], first[n] + 1 ... with the weights
// weights[n * taps ...]. Rows of images lie behind each other without gaps, but for those that are `stride` bytes apart.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

// One library for all processors of a kind: the loader takes the version that fits.
#if defined(__x86_64__) && defined(__gnu_linux__)
#define FOR_EACH_PROCESSOR __attribute__((target_clones("avx2", "default")))
#else
#define FOR_EACH_PROCESSOR
#endif
#define INLINE __attribute__((always_inline)) inline

namespace {

struct Rgb {
  using Value = std::uint8_t;
  using Sum = std::int32_t;
  using Sums = Sum __attribute__((vector_size(32)));
  static constexpr int kChannels = 3;
  static constexpr int kLanes = 4;  // of one pixel: its channels, and one that is not used
  static constexpr int kFraction = 22;  // bits of a weight behind the point
  static constexpr Sum kStart = 1 << (kFraction - 1);  // makes the shift round
  static INLINE Value rounded(Sum sum) { return static_cast<Value>(std::min(std::max(sum >> kFraction, 0), 255)); }
};

struct Depth {
  using Value = float;
  using Sum = double;
  using Sums = Sum __attribute__((vector_size(32)));
  static constexpr int kChannels = 1;
  static constexpr int kLanes = 1;
  static constexpr Sum kStart = 0.0;
  static INLINE Value rounded(Sum sum) { return static_cast<Value>(sum); }
};

// (height, width) pixels to (height, out_width). Some rows at a time, side by side in one vector.
template <class Kind>
INLINE void resize_width(
    const char* in, std::int64_t stride, std::int64_t height, std::int64_t width, const typename Kind::Sum* weights,
    const std::int32_t* first, std::int64_t taps, typename Kind::Value* out, std::int64_t out_width) {
  using Sum = typename Kind::Sum;
  using Sums = typename Kind::Sums;
  constexpr int channels = Kind::kChannels, lanes = Kind::kLanes;
  constexpr int step = sizeof(Sums) / sizeof(Sum), rows = step / lanes;
  std::vector<Sum> wide(width * step);
  for (std::int64_t top = 0; top < height; top += rows) {
    for (int row = 0; row < rows; ++row) {  // the last ones may be the last row of the image over and over
      const auto* from = reinterpret_cast<const typename Kind::Value*>(in + std::min(top + row, height - 1) * stride);
      Sum* to = wide.data() + row * lanes;
      for (std::int64_t x = 0; x < width; ++x) {
        for (int c = 0; c < channels; ++c) to[x * step + c] = from[x * channels + c];
      }
    }
    for (std::int64_t x = 0; x < out_width; ++x) {
      Sums sums = Sums{} + Kind::kStart;
      const Sum* weight = weights + x * taps;
      const Sum* from = wide.data() + first[x] * step;
      for (std::int64_t tap = 0; tap < taps; ++tap) {
        Sums pixels;
        std::memcpy(&pixels, from + tap * step, sizeof pixels);
        sums += pixels * weight[tap];
      }
      for (int row = 0; row < rows && top + row < height; ++row) {
        typename Kind::Value* to = out + ((top + row) * out_width + x) * channels;
        for (int c = 0; c < channels; ++c) to[c] = Kind::rounded(sums[row * lanes + c]);
      }
    }
  }
}

// (height, width) pixels to (out_height, width).
template <class Kind>
INLINE void resize_height(
    const typename Kind::Value* in, std::int64_t width, const typename Kind::Sum* weights, const std::int32_t* first,
    std::int64_t taps, typename Kind::Value* out, std::int64_t out_height) {
  using Sum = typename Kind::Sum;
  const std::int64_t length = width * Kind::kChannels;
  std::vector<Sum> sums(length);
  for (std::int64_t y = 0; y < out_height; ++y) {
    std::fill(sums.begin(), sums.end(), Kind::kStart);
    Sum* sum = sums.data();
    for (std::int64_t tap = 0; tap < taps; ++tap) {
      const typename Kind::Value* from = in + (first[y] + tap) * length;
      const Sum weight = weights[y * taps + tap];
      for (std::int64_t i = 0; i < length; ++i) sum[i] += weight * from[i];
    }
    typename Kind::Value* to = out + y * length;
    for (std::int64_t i = 0; i < length; ++i) to[i] = Kind::rounded(sum[i]);
  }
}

}  // namespace

extern "C" {

FOR_EACH_PROCESSOR void rgb_width(
    const char* in, std::int64_t stride, std::int64_t height, std::int64_t width, const std::int32_t* weights,
    const std::int32_t* first, std::int64_t taps, std::uint8_t* out, std::int64_t out_width) {
  resize_width<Rgb>(in, stride, height, width, weights, first, taps, out, out_width);
}

FOR_EACH_PROCESSOR void rgb_height(
    const std::uint8_t* in, std::int64_t width, const std::int32_t* weights, const std::int32_t* first,
    std::int64_t taps, std::uint8_t* out, std::int64_t out_height) {
  resize_height<Rgb>(in, width, weights, first, taps, out, out_height);
}

FOR_EACH_PROCESSOR void depth_width(
    const char* in, std::int64_t stride, std::int64_t height, std::int64_t width, const double* weights,
    const std::int32_t* first, std::int64_t taps, float* out, std::int64_t out_width) {
  resize_width<Depth>(in, stride, height, width, weights, first, taps, out, out_width);
}

FOR_EACH_PROCESSOR void depth_height(
    const float* in, std::int64_t width, const double* weights, const std::int32_t* first, std::int64_t taps,
    float* out, std::int64_t out_height) {
  resize_height<Depth>(in, width, weights, first, taps, out, out_height);
}

}  // extern "C"
