// Attention with sigmoid weights, forward and backward, and with softmax weights, forward, by the same blocks; float32, one CPU.
//
// A block of queries is turned so that its queries lie in the lanes of vector registers. Then, with q and o standing for these columns,
//     scores  Sᵀ[key, lane]  = Σ_d k[key, d] qᵀ[d, lane]         keys are broadcast, as they lie in memory
//     outputs Oᵀ[v, lane]   += Σ_key v[key, v] Pᵀ[key, lane]     values are broadcast, as they lie in memory
// so neither keys nor values are ever packed, and the weights are made from scores that are still in registers. All exponentials are powers
// of two: queries and biases are scaled by log2 e beforehand, and for the sigmoid by −1 too, for σ(x) = 1 / (1 + 2^(−x log2 e)).

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "vectors.hpp"

constexpr int QUERY_VECTORS = 3;
#if defined(__AVX512F__)
constexpr int REGISTERS = 24;  // 3 vectors times 8 keys, of 32
#else
constexpr int REGISTERS = 12;  // 3 vectors times 4 keys, of 16
#endif

constexpr int QUERIES = QUERY_VECTORS * LANES;  // of a block
constexpr int TILE = REGISTERS / QUERY_VECTORS;  // keys of a register tile
constexpr int KEYS = 64;                         // of a block: its weights stay in the first-level cache
constexpr long CHUNK = 512;                      // keys whose gradients stay in the second-level cache
constexpr long LINE = 16;                        // numbers that memory hands over at once
constexpr float HIDDEN = -1e30f;

// ------------------------------------------------------------------------------------------------ products

// sums[r][v] += Σ_k a[r · row + k · column] · b[k · stride + v · LANES …]
template <int ROWS, int VECTORS>
static inline __attribute__((always_inline)) void multiply(Vector (&sums)[ROWS][VECTORS], const float* a, long row, long column,
                                                           const float* b, long stride, long depth) {
  for (long k = 0; k < depth; ++k) {
    Vector right[VECTORS];
#pragma GCC unroll 8
    for (int v = 0; v < VECTORS; ++v) right[v] = in_register(load(b + k * stride + v * LANES));
#pragma GCC unroll 32
    for (int r = 0; r < ROWS; ++r) {
      const Vector left = all(a[r * row + k * column]);
#pragma GCC unroll 8
      for (int v = 0; v < VECTORS; ++v) sums[r][v] += left * right[v];
    }
  }
}

template <int ROWS, int VECTORS>
static inline __attribute__((always_inline)) void add_tile(float* c, long c_stride, const float* a, long row, long column, const float* b,
                                                           long stride, long depth) {
  Vector sums[ROWS][VECTORS];
#pragma GCC unroll 32
  for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 8
    for (int v = 0; v < VECTORS; ++v) sums[r][v] = load(c + r * c_stride + v * LANES);
  multiply<ROWS, VECTORS>(sums, a, row, column, b, stride, depth);
#pragma GCC unroll 32
  for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 8
    for (int v = 0; v < VECTORS; ++v) store(c + r * c_stride + v * LANES, sums[r][v]);
}

// Calls f.run<R>(start) for tiles of at most MOST rows.
template <int ROWS, class F>
static inline void last_rows(long start, long left, F& f) {
  if constexpr (ROWS > 0) {
    if (left == ROWS) f.template run<ROWS>(start);
    else last_rows<ROWS - 1>(start, left, f);
  }
}
template <int MOST, class F>
static inline void over_rows(long rows, F f) {
  long start = 0;
  for (; start + MOST <= rows; start += MOST) f.template run<MOST>(start);
  last_rows<MOST - 1>(start, rows - start, f);
}

template <int VECTORS>
struct AddTiles {
  float* c; long c_stride; const float* a; long row; long column; const float* b; long stride; long depth;
  template <int ROWS> void run(long start) { add_tile<ROWS, VECTORS>(c + start * c_stride, c_stride, a + start * row, row, column, b, stride, depth); }
};

// c[rows, VECTORS · LANES] += a · b
template <int VECTORS>
static void add_product(float* c, long c_stride, const float* a, long row, long column, const float* b, long stride, long rows, long depth) {
  over_rows<REGISTERS / VECTORS>(rows, AddTiles<VECTORS>{c, c_stride, a, row, column, b, stride, depth});
}

// The same for any number of columns, a multiple of LANES.
static void add_wide_product(float* c, long c_stride, const float* a, long row, long column, const float* b, long stride, long rows,
                             long depth, long columns) {
  long at = 0;
  for (; at + 4 * LANES <= columns; at += 4 * LANES) add_product<4>(c + at, c_stride, a, row, column, b + at, stride, rows, depth);
  if (columns - at == 3 * LANES) add_product<3>(c + at, c_stride, a, row, column, b + at, stride, rows, depth);
  if (columns - at == 2 * LANES) add_product<2>(c + at, c_stride, a, row, column, b + at, stride, rows, depth);
  if (columns - at == LANES) add_product<1>(c + at, c_stride, a, row, column, b + at, stride, rows, depth);
}

// ------------------------------------------------------------------------------------------------ the problem

extern "C" {
// All tensors are float32 and dense: queries and outputs (batch, heads, queries, …), keys and values (batch, key heads, keys, …), biases
// (batch, heads, queries), positions (batch, …), kept (batch, keys) bytes or null. A query sees a key that is kept, at no later position
// if causal, less than window positions away if window > 0, and where visible says so, (batch, queries, keys) bytes or null, visible_stride
// apart from one example to the next. Slopes (heads) or null lower the scores by slope · distance.
struct Problem {
  int64_t batch, heads, key_heads, queries, keys, width, value_width, causal, window, softmax, visible_stride, threads;
  double scale;
  const float *query, *key, *value, *bias, *slopes, *query_positions, *key_positions;
  const uint8_t *kept, *visible;
  float* output;
  const float* output_gradient;
  float *query_gradient, *key_gradient, *value_gradient, *bias_gradient;
};
}

static long padded(long size) { return (size + LANES - 1) / LANES * LANES; }

enum Sight { NOTHING, SOME, EVERYTHING };

struct Range {
  float low, high;
  Range(const float* values, long count) : low(INFINITY), high(-INFINITY) {
    for (long i = 0; i < count; ++i) low = std::min(low, values[i]), high = std::max(high, values[i]);
  }
};

// What the queries first … first + queries − 1 of an example see of its keys start … start + keys − 1.
static Sight sight(const Problem& p, long batch, const Range& here, long first, long queries, long start, long keys) {
  const Range there(p.key_positions + batch * p.keys + start, keys);
  const float window = static_cast<float>(p.window);
  if (p.causal && there.low > here.high) return NOTHING;
  if (p.window && (here.low - there.high >= window || there.low - here.high >= window)) return NOTHING;
  bool some = p.causal && there.high > here.low;
  some |= p.window && (here.high - there.low >= window || there.high - here.low >= window);
  if (p.kept) {
    const uint8_t* kept = p.kept + batch * p.keys + start;
    const long count = keys - std::count(kept, kept + keys, 0);
    if (count == 0) return NOTHING;
    some |= count < keys;
  }
  if (p.visible) {
    long count = 0;
    for (long i = first; i < first + queries; ++i) {
      const uint8_t* row = p.visible + batch * p.visible_stride + i * p.keys + start;
      count += keys - std::count(row, row + keys, 0);
    }
    if (count == 0) return NOTHING;
    some |= count < queries * keys;
  }
  return some ? SOME : EVERYTHING;
}

// A block of queries of one head, turned: what the tiles read.
struct Block {
  long first = 0, count = 0;  // queries of the block
  long batch = 0, head = 0;
  float slope = 0;
  Range range{nullptr, 0};
  std::vector<float> turned, bias, positions;

  Block(const Problem& p) : turned(p.width * QUERIES), bias(QUERIES), positions(QUERIES) {}

  void fill(const Problem& p, long at_batch, long at_head, long start) {
    batch = at_batch, head = at_head, first = start, count = std::min<long>(QUERIES, p.queries - start);
    const float factor = p.softmax ? LOG2_E : -LOG2_E;
    const long row = (batch * p.heads + head) * p.queries + first;
    turn(turned.data(), p.query + row * p.width, p.width, count, static_cast<float>(p.scale) * factor);
    const float* here = p.query_positions + batch * p.queries + first;
    range = Range(here, count);
    for (long i = 0; i < QUERIES; ++i) {
      bias[i] = i < count ? finite(p.bias[row + i]) * factor : 0.0f;
      positions[i] = here[std::min(i, count - 1)];
    }
    slope = p.slopes ? -p.slopes[head] * factor : 0.0f;
  }

  // Infinite minus infinite would be NaN where 2^x is split.
  static float finite(float x) { return x > -HIDDEN ? -HIDDEN : x < HIDDEN ? HIDDEN : x; }

  static void turn(float* to, const float* from, long width, long count, float factor) {
    if (count < QUERIES) std::fill(to, to + width * QUERIES, 0.0f);
    for (long i = 0; i < count; ++i)
      for (long d = 0; d < width; ++d) to[d * QUERIES + i] = from[i * width + d] * factor;
  }
};

// Puts otherwise where a query does not see key j of its example. Apart from the tiles, which need all registers for themselves.
static __attribute__((noinline)) void hide(const Problem& p, const Block& block, long j, float* weights, float otherwise) {
  const bool kept = !p.kept || p.kept[block.batch * p.keys + j];
  for (int v = 0; v < QUERY_VECTORS; ++v) {
    const Vector ahead = p.key_positions[block.batch * p.keys + j] - load(&block.positions[v * LANES]);
    Whole seen = kept ? Whole{} - 1 : Whole{};
    if (p.causal) seen &= ahead <= Vector{};
    if (p.window) {
      const Vector window = all(static_cast<float>(p.window));
      seen &= (ahead < window) & (-ahead < window);
    }
    store(weights + v * LANES, seen ? load(weights + v * LANES) : all(otherwise));
  }
  if (p.visible)
    for (long i = 0; i < block.count; ++i)
      if (!p.visible[block.batch * p.visible_stride + (block.first + i) * p.keys + j]) weights[i] = otherwise;
}

// Scores of ROWS keys with the block's queries, and from them weights (sigmoid) or scores and their maximum (softmax).
template <bool SOFTMAX>
struct Weigh {
  const Problem& p;
  const Block& block;
  const float* key;    // of the key block
  const float* value;  // of the key block: fetched meanwhile, for they are multiplied next
  long first_key;      // of the key block, in its example
  bool whole;          // every query sees every key
  float* weights;      // (KEYS, QUERIES)
  Vector* maximum;     // of the scores, softmax alone

  template <int ROWS>
  void run(long start) {
    Vector sums[ROWS][QUERY_VECTORS];
#pragma GCC unroll 32
    for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 8
      for (int v = 0; v < QUERY_VECTORS; ++v) sums[r][v] = load(&block.bias[v * LANES]);
    if (p.slopes) {
      const float* key_positions = p.key_positions + block.batch * p.keys + first_key + start;
#pragma GCC unroll 32
      for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 8
        for (int v = 0; v < QUERY_VECTORS; ++v) {
          const Vector ahead = key_positions[r] - load(&block.positions[v * LANES]);
          sums[r][v] += block.slope * greatest(ahead, -ahead);
        }
    }
    for (long at = start * p.value_width; at < (start + ROWS) * p.value_width; at += LINE) __builtin_prefetch(value + at);
    multiply<ROWS, QUERY_VECTORS>(sums, key + start * p.width, p.width, 1, block.turned.data(), QUERIES, p.width);
#pragma GCC unroll 32
    for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 8
      for (int v = 0; v < QUERY_VECTORS; ++v)
        store(weights + (start + r) * QUERIES + v * LANES, SOFTMAX ? sums[r][v] : sigmoid_of_negated(sums[r][v]));
    if (!whole)
      for (int r = 0; r < ROWS; ++r) hide(p, block, first_key + start + r, weights + (start + r) * QUERIES, SOFTMAX ? HIDDEN : 0.0f);
    if (SOFTMAX)
#pragma GCC unroll 32
      for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 8
        for (int v = 0; v < QUERY_VECTORS; ++v)
          maximum[v] = greatest(maximum[v], whole ? sums[r][v] : load(weights + (start + r) * QUERIES + v * LANES));
  }
};

// ------------------------------------------------------------------------------------------------ forward

// Turns scores into exp(score − maximum) and brings the sums so far down to the new maximum.
static void exponentials(float* weights, long keys, bool whole, const Vector* maximum, Vector* reached, Vector* total, float* outputs,
                         long width) {
  bool moved = false;
  Vector scale[QUERY_VECTORS];
  for (int v = 0; v < QUERY_VECTORS; ++v) {
    scale[v] = power_of_two(greatest(reached[v] - maximum[v], all(-LARGEST)));
    for (int lane = 0; lane < LANES; ++lane) moved |= reached[v][lane] != maximum[v][lane];
    reached[v] = maximum[v];
    total[v] *= scale[v];
  }
  if (moved)
    for (long d = 0; d < width; ++d)
      for (int v = 0; v < QUERY_VECTORS; ++v) store(outputs + d * QUERIES + v * LANES, load(outputs + d * QUERIES + v * LANES) * scale[v]);
  for (long j = 0; j < keys; ++j)
#pragma GCC unroll 8
    for (int v = 0; v < QUERY_VECTORS; ++v) {
      float* at = weights + j * QUERIES + v * LANES;
      const Vector x = load(at);
      Vector weight = power_of_two(greatest(x - reached[v], all(-LARGEST)));
      if (!whole) weight = x <= all(HIDDEN / 2) ? Vector{} : weight;
      total[v] += weight;
      store(at, weight);
    }
}

template <bool SOFTMAX>
static void forward_block(const Problem& p, const Block& block, float* weights, float* outputs) {
  const long key_head = block.head / (p.heads / p.key_heads);
  const float* key = p.key + (block.batch * p.key_heads + key_head) * p.keys * p.width;
  const float* value = p.value + (block.batch * p.key_heads + key_head) * p.keys * p.value_width;
  std::fill(outputs, outputs + p.value_width * QUERIES, 0.0f);
  Vector maximum[QUERY_VECTORS], reached[QUERY_VECTORS], total[QUERY_VECTORS];
  for (int v = 0; v < QUERY_VECTORS; ++v) maximum[v] = reached[v] = all(HIDDEN), total[v] = Vector{};

  for (long start = 0; start < p.keys; start += KEYS) {
    const long count = std::min<long>(KEYS, p.keys - start);
    const Sight seen = sight(p, block.batch, block.range, block.first, block.count, start, count);
    if (seen == NOTHING) continue;
    const float *keys = key + start * p.width, *values = value + start * p.value_width;
    over_rows<TILE>(count, Weigh<SOFTMAX>{p, block, keys, values, start, seen == EVERYTHING, weights, maximum});
    if (SOFTMAX) exponentials(weights, count, seen == EVERYTHING, maximum, reached, total, outputs, p.value_width);
    add_product<QUERY_VECTORS>(outputs, QUERIES, values, 1, p.value_width, weights, QUERIES, p.value_width, count);
  }
  float* to = p.output + ((block.batch * p.heads + block.head) * p.queries + block.first) * p.value_width;
  for (long i = 0; i < block.count; ++i) {
    const float sum = total[i / LANES][i % LANES];
    const float factor = SOFTMAX ? (sum > 0 ? 1 / sum : 0) : 1;
    for (long d = 0; d < p.value_width; ++d) to[i * p.value_width + d] = outputs[d * QUERIES + i] * factor;
  }
}

extern "C" void attention_forward(const Problem* problem) {
  const Problem& p = *problem;
  const long blocks = (p.queries + QUERIES - 1) / QUERIES, tasks = p.batch * p.heads * blocks;
#pragma omp parallel num_threads(p.threads)
  {
    Block block(p);
    std::vector<float> weights(KEYS * QUERIES), outputs(p.value_width * QUERIES);
#pragma omp for schedule(dynamic)
    for (long task = 0; task < tasks; ++task) {
      const long head = task / blocks;
      block.fill(p, head / p.heads, head % p.heads, task % blocks * QUERIES);
      if (p.softmax) forward_block<true>(p, block, weights.data(), outputs.data());
      else forward_block<false>(p, block, weights.data(), outputs.data());
    }
  }
}

// ------------------------------------------------------------------------------------------------ backward

// With E = dP ∘ P ∘ (1 − P) and dPᵀ[key, lane] = Σ_v v[key, v] dOᵀ[v, lane]: tiles of E, and its sums over the keys.
struct Differentiate {
  const Problem& p;
  const float* value;            // of the key block
  const float* output_gradient;  // (value width, QUERIES)
  const float* weights;          // (KEYS, QUERIES)
  float* errors;                 // (KEYS, QUERIES)
  Vector* sums_over_keys;

  template <int ROWS>
  void run(long start) {
    Vector sums[ROWS][QUERY_VECTORS] = {};
    multiply<ROWS, QUERY_VECTORS>(sums, value + start * p.value_width, p.value_width, 1, output_gradient, QUERIES, p.value_width);
#pragma GCC unroll 32
    for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 8
      for (int v = 0; v < QUERY_VECTORS; ++v) {
        const long at = (start + r) * QUERIES + v * LANES;
        const Vector weight = load(weights + at);
        const Vector error = sums[r][v] * (weight - weight * weight);
        sums_over_keys[v] += error;
        store(errors + at, error);
      }
  }
};

// What one thread needs to take a key head's chunk of keys through all blocks of queries.
struct Backward {
  const Problem& p;
  const long width, value_width;  // padded to whole vectors
  Block block;
  std::vector<float> turned_gradient, query_rows, gradient_rows, weights, errors, query_sums, key_sums, value_sums;

  Backward(const Problem& p)
      : p(p), width(padded(p.width)), value_width(padded(p.value_width)), block(p), turned_gradient(p.value_width * QUERIES),
        query_rows(QUERIES * width), gradient_rows(QUERIES * value_width), weights(KEYS * QUERIES), errors(KEYS * QUERIES),
        query_sums(p.width * QUERIES), key_sums(CHUNK * width), value_sums(CHUNK * value_width) {}

  static void rows(float* to, long to_width, const float* from, long width, long count, float factor) {
    for (long i = 0; i < count; ++i)
      for (long d = 0; d < width; ++d) to[i * to_width + d] = from[i * width + d] * factor;
  }

  void chunk(long batch, long key_head, long first, float* query_gradient, float* bias_gradient) {
    const long count = std::min(CHUNK, p.keys - first), group = p.heads / p.key_heads;
    const long row = (batch * p.key_heads + key_head) * p.keys + first;
    std::fill(key_sums.begin(), key_sums.end(), 0.0f);
    std::fill(value_sums.begin(), value_sums.end(), 0.0f);
    for (long head = key_head * group; head < (key_head + 1) * group; ++head)
      for (long start = 0; start < p.queries; start += QUERIES) {
        const long queries = std::min<long>(QUERIES, p.queries - start), at = (batch * p.heads + head) * p.queries + start;
        const Range here(p.query_positions + batch * p.queries + start, queries);
        if (sight(p, batch, here, start, queries, first, count) == NOTHING) continue;
        block.fill(p, batch, head, start);
        Block::turn(turned_gradient.data(), p.output_gradient + at * p.value_width, p.value_width, queries, 1.0f);
        rows(query_rows.data(), width, p.query + at * p.width, p.width, queries, static_cast<float>(p.scale));
        rows(gradient_rows.data(), value_width, p.output_gradient + at * p.value_width, p.value_width, queries, 1.0f);
        through(first, count, row, query_gradient + at * p.width, bias_gradient + at);
      }
    for (long j = 0; j < count; ++j) {
      std::memcpy(p.key_gradient + (row + j) * p.width, &key_sums[j * width], p.width * sizeof(float));
      std::memcpy(p.value_gradient + (row + j) * p.value_width, &value_sums[j * value_width], p.value_width * sizeof(float));
    }
  }

  // One block of queries over one chunk of keys.
  void through(long first, long chunk, long row, float* query_gradient, float* bias_gradient) {
    std::fill(query_sums.begin(), query_sums.end(), 0.0f);
    Vector bias_sums[QUERY_VECTORS] = {};
    for (long start = 0; start < chunk; start += KEYS) {
      const long count = std::min<long>(KEYS, chunk - start);
      const Sight seen = sight(p, block.batch, block.range, block.first, block.count, first + start, count);
      if (seen == NOTHING) continue;
      const float *key = p.key + (row + start) * p.width, *value = p.value + (row + start) * p.value_width;
      over_rows<TILE>(count, Weigh<false>{p, block, key, value, first + start, seen == EVERYTHING, weights.data(), nullptr});
      over_rows<TILE>(count, Differentiate{p, value, turned_gradient.data(), weights.data(), errors.data(), bias_sums});
      add_wide_product(&value_sums[start * value_width], value_width, weights.data(), QUERIES, 1, gradient_rows.data(), value_width, count,
                       block.count, value_width);
      add_wide_product(&key_sums[start * width], width, errors.data(), QUERIES, 1, query_rows.data(), width, count, block.count, width);
      add_product<QUERY_VECTORS>(query_sums.data(), QUERIES, key, 1, p.width, errors.data(), QUERIES, p.width, count);
    }
    for (long i = 0; i < block.count; ++i) {
      bias_gradient[i] += bias_sums[i / LANES][i % LANES];
      for (long d = 0; d < p.width; ++d) query_gradient[i * p.width + d] += query_sums[d * QUERIES + i] * static_cast<float>(p.scale);
    }
  }
};

// Query and bias gradients must be zero before. Where there are fewer key heads than threads, a head's chunks of keys are dealt out to
// several threads, each with sums of its own for the queries.
extern "C" void attention_backward(const Problem* problem) {
  const Problem& p = *problem;
  const long key_heads = p.batch * p.key_heads, chunks = (p.keys + CHUNK - 1) / CHUNK, rows = p.batch * p.heads * p.queries;
  const long parts = std::max(1L, std::min(chunks, (p.threads + key_heads - 1) / key_heads));
  std::vector<float> query_sums((parts - 1) * rows * p.width), bias_sums((parts - 1) * rows);
#pragma omp parallel num_threads(p.threads)
  {
    Backward backward(p);
#pragma omp for schedule(dynamic)
    for (long task = 0; task < key_heads * parts; ++task) {
      const long head = task / parts, part = task % parts;
      float* queries = part ? &query_sums[(part - 1) * rows * p.width] : p.query_gradient;
      float* bias = part ? &bias_sums[(part - 1) * rows] : p.bias_gradient;
      for (long chunk = part; chunk < chunks; chunk += parts) backward.chunk(head / p.key_heads, head % p.key_heads, chunk * CHUNK, queries, bias);
    }
  }
  for (long part = 1; part < parts; ++part) {
    for (long i = 0; i < rows * p.width; ++i) p.query_gradient[i] += query_sums[(part - 1) * rows * p.width + i];
    for (long i = 0; i < rows; ++i) p.bias_gradient[i] += bias_sums[(part - 1) * rows + i];
  }
}
