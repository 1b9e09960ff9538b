// A depthwise dilated convolution over rows of channels, what may follow it, and its gradient for the taps; float32, one CPU.
//
//     a[t, c] = bias[c] + Σ_k taps[k, c] x[t + k · dilation − before, c]       rows of x outside of it are zero
//     y = a,  or  y = silu(a) + residual,  or  y = output gradient ∘ silu'(a)
//
// Outputs a whole dilation apart share inputs: of TIMES of them, taps + TIMES − 1 rows are read where one by one would read taps · TIMES.
// So a tile is TIMES outputs, a dilation apart, of a vector of channels, and all its sums stay in registers; tiles go through a block of
// TIMES · dilation rows side by side, in which rows that neighbours share are still in the cache. The gradient for x is the same function
// with the taps in reverse.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "vectors.hpp"

enum Ending : int64_t { PLAIN, SILU, SILU_GRADIENT };

struct Problem {
  int64_t batch, inputs, outputs, width, taps, dilation, before, ending, threads;
  const float *x, *weight, *bias;
  const float *residual;         // (batch, outputs, width)
  const float *output_gradient;  // (batch, outputs, width)
  float *output;                 // (batch, outputs, width)
  float *weight_gradient;        // (taps, width)
};

#if defined(__AVX512F__)
constexpr int TIMES = 16;  // sums in registers; the rest hold a tap and an input
#else
constexpr int TIMES = 8;
#endif
constexpr int TAPS = 8;     // whose gradients are summed in one pass over the rows
constexpr long ROWS = 512;  // of a pass: what one thread's taps reach from there stays in the second-level cache

template <int N>
struct Lanes {
  typedef float Vector __attribute__((vector_size(4 * N)));
  typedef float Loose __attribute__((vector_size(4 * N), aligned(4)));
  static inline Vector load(const float* from) { return *reinterpret_cast<const Loose*>(from); }
  static inline void store(float* to, Vector x) { *reinterpret_cast<Loose*>(to) = x; }
};
template <>
struct Lanes<1> {
  typedef float Vector;
  static inline float load(const float* from) { return *from; }
  static inline void store(float* to, float x) { *to = x; }
};

// A function of whole vectors, of what may be part of one.
template <int N, typename F>
static inline typename Lanes<N>::Vector elementwise(typename Lanes<N>::Vector x, const F& f) {
  if constexpr (N == LANES) {
    return f(x);
  } else {
    float whole[LANES] = {};
    Lanes<N>::store(whole, x);
    store(whole, f(load(whole)));
    return Lanes<N>::load(whole);
  }
}

// Calls f<N>(c) over all channels, in vectors as wide as fit.
template <int N, typename F>
static inline void over_channels(long width, long c, const F& f) {
  for (; c + N <= width; c += N) f.template run<N>(c);
  if constexpr (N > 1) over_channels<N / 2>(width, c, f);
}

// ------------------------------------------------------------------------------------------------ outputs

// Up to TIMES outputs a dilation apart, the first at row `first`.
template <Ending ENDING>
struct Tile {
  const Problem& p;
  const float *x, *residual, *arriving;  // of the example
  float* output;
  const float* zeros;
  long first, count;

  inline const float* row(long at) const { return at >= 0 && at < p.inputs ? x + at * p.width : zeros; }

  template <int N>
  inline void finish(typename Lanes<N>::Vector sum, long at) const {
    typedef Lanes<N> L;
    if (ENDING == SILU) {
      sum = elementwise<N>(sum, [](Vector a) { return a * sigmoid_of_negated(a * -LOG2_E); });
      if (residual) sum += L::load(residual + at);
    } else if (ENDING == SILU_GRADIENT) {
      sum = L::load(arriving + at) * elementwise<N>(sum, [](Vector a) {
        const Vector s = sigmoid_of_negated(a * -LOG2_E);
        return s + a * (s - s * s);
      });
    }
    L::store(output + at, sum);
  }

  template <int N>
  void run(long c) const {
    typedef Lanes<N> L;
    const long start = first - p.before;
    const bool whole = count == TIMES && start >= 0 && start + (TIMES + p.taps - 2) * p.dilation < p.inputs;
    typename L::Vector sums[TIMES];
    const typename L::Vector begun = p.bias ? L::load(p.bias + c) : typename L::Vector{};
#pragma GCC unroll 16
    for (int i = 0; i < TIMES; ++i) sums[i] = begun;
    if (whole) {
      const long stride = p.dilation * p.width;
      const float* from = x + start * p.width + c;
      for (long k = 0; k < p.taps; ++k, from += stride) {
        const typename L::Vector tap = L::load(p.weight + k * p.width + c);
#pragma GCC unroll 16
        for (int i = 0; i < TIMES; ++i) sums[i] += tap * L::load(from + i * stride);
      }
#pragma GCC unroll 16
      for (int i = 0; i < TIMES; ++i) finish<N>(sums[i], (first + i * p.dilation) * p.width + c);
      return;
    }
    for (long i = 0; i < count; ++i) {
      typename L::Vector sum = begun;
      for (long k = 0; k < p.taps; ++k) sum += L::load(p.weight + k * p.width + c) * L::load(row(start + (i + k) * p.dilation) + c);
      finish<N>(sum, (first + i * p.dilation) * p.width + c);
    }
  }
};

template <Ending ENDING>
static void convolve_all(const Problem& p) {
  const std::vector<float> zeros(p.width, 0.0f);
  const long block = TIMES * p.dilation, blocks = (p.outputs + block - 1) / block;
  // a block is split among threads where blocks are too few
  const long parts = std::min<long>(p.dilation, std::max<long>(1, 4 * p.threads / std::max<long>(1, p.batch * blocks)));
#pragma omp parallel for schedule(dynamic) num_threads(p.threads) if (p.threads > 1)
  for (long task = 0; task < p.batch * blocks * parts; ++task) {
    const long part = task % parts, example = task / parts / blocks, start = task / parts % blocks * block;
    const float* x = p.x + example * p.inputs * p.width;
    const long behind = example * p.outputs * p.width;
    const float* residual = p.residual ? p.residual + behind : nullptr;
    const float* arriving = p.output_gradient ? p.output_gradient + behind : nullptr;
    for (long r = part * p.dilation / parts; r < (part + 1) * p.dilation / parts && start + r < p.outputs; ++r) {
      const long left = (p.outputs - start - r + p.dilation - 1) / p.dilation;
      const long count = std::min<long>(TIMES, left);
      over_channels<LANES>(p.width, 0, Tile<ENDING>{p, x, residual, arriving, p.output + behind, zeros.data(), start + r, count});
    }
  }
}

extern "C" void convolve(const Problem* problem) {
  if (problem->ending == SILU) convolve_all<SILU>(*problem);
  else if (problem->ending == SILU_GRADIENT) convolve_all<SILU_GRADIENT>(*problem);
  else convolve_all<PLAIN>(*problem);
}

// ------------------------------------------------------------------------------------------------ gradient for the taps

// Σ_t gradient[t] ∘ x[t + k · dilation − before] of COUNT taps from `tap` on, over outputs of one example.
template <int COUNT>
struct Sums {
  const Problem& p;
  const float *x, *gradient;
  float* sums;  // (taps, width)
  long tap, start, stop;

  template <int N>
  void run(long c) const {
    typedef Lanes<N> L;
    typename L::Vector found[COUNT];
    long from[COUNT], to[COUNT], least = start, most = stop;
    for (int k = 0; k < COUNT; ++k) {
      const long shift = (tap + k) * p.dilation - p.before;
      from[k] = std::max(start, -shift), to[k] = std::min(stop, p.inputs - shift);
      least = std::max(least, from[k]), most = std::min(most, to[k]);
      found[k] = L::load(sums + (tap + k) * p.width + c);
    }
    const float* shifted = x + (tap * p.dilation - p.before) * p.width + c;
    const long stride = p.dilation * p.width;
    most = std::max(least, most);
    for (long t = least; t < most; ++t) {
      const typename L::Vector g = L::load(gradient + t * p.width + c);
#pragma GCC unroll 8
      for (int k = 0; k < COUNT; ++k) found[k] += g * L::load(shifted + t * p.width + k * stride);
    }
    for (int k = 0; k < COUNT; ++k) {  // rows that only some of the taps see
      for (long t = from[k]; t < std::min(to[k], least); ++t) found[k] += L::load(gradient + t * p.width + c) * L::load(shifted + t * p.width + k * stride);
      for (long t = std::max(from[k], most); t < to[k]; ++t) found[k] += L::load(gradient + t * p.width + c) * L::load(shifted + t * p.width + k * stride);
      L::store(sums + (tap + k) * p.width + c, found[k]);
    }
  }
};

template <int COUNT>
static void over_taps(const Problem& p, const float* x, const float* gradient, float* sums, long tap, long start, long stop) {
  for (; tap + COUNT <= p.taps; tap += COUNT)
    over_channels<LANES>(p.width, 0, Sums<COUNT>{p, x, gradient, sums, tap, start, stop});
  if constexpr (COUNT > 1) over_taps<COUNT / 2>(p, x, gradient, sums, tap, start, stop);
}

extern "C" void convolve_backward(const Problem* problem) {
  const Problem& p = *problem;
  const long blocks = (p.outputs + ROWS - 1) / ROWS, size = p.taps * p.width, parts = std::min<long>(p.threads, std::max<long>(1, p.batch * blocks));
  std::vector<float> sums(parts * size, 0.0f);
#pragma omp parallel for num_threads(p.threads) if (p.threads > 1)
  for (long part = 0; part < parts; ++part) {
    for (long task = part * p.batch * blocks / parts; task < (part + 1) * p.batch * blocks / parts; ++task) {
      const long example = task / blocks, start = task % blocks * ROWS;
      over_taps<TAPS>(p, p.x + example * p.inputs * p.width, p.output_gradient + example * p.outputs * p.width, &sums[part * size], 0, start,
                      std::min(start + ROWS, p.outputs));
    }
  }
  std::memcpy(p.weight_gradient, sums.data(), size * sizeof(float));
  for (long part = 1; part < parts; ++part)
    for (long i = 0; i < size; ++i) p.weight_gradient[i] += sums[part * size + i];
}
