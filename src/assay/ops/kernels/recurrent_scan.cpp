// Recurrences step by step, forward and backward; float32, one CPU.
//
// A task is some heads and some rows of the batch, and walks the whole sequence alone: no thread waits for another. In each step it multiplies
// its rows of the hidden state with each head's weights by register tiles, and then makes the new states element by element. Heads that go
// together touch the same pages of memory in the same step:
//     forward   r[row, gate · size] = Σ_p h[row, p] Rᵀ[p, gate · size]
//     backward  g[row, p]           = Σ_k δ[row, k] R[k, p]                  k over all gates and units
// The right sides come packed in panels of as many columns as a tile has, (heads, panels, depth, VECTORS · LANES), zero beyond the last
// column, and stay in the caches over all steps. How large tiles are is for the caller to say.

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>
#include <vector>

#include "vectors.hpp"

#if defined(__AVX512F__)
constexpr int REGISTERS = 32;
#else
constexpr int REGISTERS = 16;
#endif
constexpr long AHEAD = 2;  // steps
constexpr long NEXT = 24;  // rows of a panel, which comes from beyond the first-level cache
constexpr int MOST_ROWS = 12, MOST_VECTORS = 6;  // of a tile

extern "C" {
int64_t recurrent_lanes() { return LANES; }
int64_t recurrent_registers() { return REGISTERS; }

// How a product is cut: a tile has `rows` rows and `vectors` vectors of columns, and goes through `depth` of the sum before the next.
struct Tiling {
  int64_t rows, vectors, depth;
};

// All tensors are float32 and dense. inputs (batch, length, input gates, heads, size), bias (bias gates, heads, size), initial, its gradient
// and last_flow (states, batch, heads, size), states (states, batch, length, heads, size), flow of each state (batch, length, heads, size) or
// null, kept (batch, length, kept, heads, size) or null, deltas (batch, length, bias gates, heads, size), bias_gradient (groups of rows, bias
// gates, heads, size), decay and its gradient (batch, length, heads, size) or null; real and fresh (batch, length) bytes or null. Panels are
// of the direction that is called.
struct Problem {
  int64_t function, batch, length, heads, size, task_rows, bundle, threads, cut;
  Tiling tiling;
  double clip;
  const float *inputs, *bias, *initial, *panels, *decay;
  const uint8_t *real, *fresh;
  float *states, *kept;
  const float *flow[4], *last_flow;
  float *deltas, *bias_gradient, *initial_gradient, *decay_gradient;
};
}

// ------------------------------------------------------------------------------------------------ products

// c (+)= a b: b is a panel, (depth, VECTORS · LANES).
template <int ROWS, int VECTORS>
static void tile(const float* a, long a_stride, const float* b, long depth, float* c, long c_stride, bool add) {
  Vector sums[ROWS][VECTORS];
#pragma GCC unroll 12
  for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 6
    for (int v = 0; v < VECTORS; ++v) sums[r][v] = add ? load(c + r * c_stride + v * LANES) : Vector{};
  for (long k = 0; k < depth; ++k) {
    Vector right[VECTORS];
    __builtin_prefetch(b + (k + NEXT) * VECTORS * LANES);
#pragma GCC unroll 6
    for (int v = 0; v < VECTORS; ++v) right[v] = in_register(load(b + (k * VECTORS + v) * LANES));
#pragma GCC unroll 12
    for (int r = 0; r < ROWS; ++r) {
      const Vector left = all(a[r * a_stride + k]);
#pragma GCC unroll 6
      for (int v = 0; v < VECTORS; ++v) sums[r][v] += left * right[v];
    }
  }
#pragma GCC unroll 12
  for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 6
    for (int v = 0; v < VECTORS; ++v) store(c + r * c_stride + v * LANES, sums[r][v]);
}

typedef void (*Tile)(const float*, long, const float*, long, float*, long, bool);

template <int AT>
static constexpr Tile tile_at() {
  constexpr int rows = AT / MOST_VECTORS + 1, vectors = AT % MOST_VECTORS + 1;
  if constexpr (rows * vectors + vectors + 1 <= REGISTERS) return tile<rows, vectors>;
  else return nullptr;
}
template <int... AT>
static Tile tile_of(long rows, long vectors, std::integer_sequence<int, AT...>) {
  static constexpr Tile tiles[] = {tile_at<AT>()...};
  return tiles[(rows - 1) * MOST_VECTORS + vectors - 1];
}
static Tile tile_of(long rows, long vectors) { return tile_of(rows, vectors, std::make_integer_sequence<int, MOST_ROWS * MOST_VECTORS>()); }

extern "C" int recurrent_has_tile(int64_t rows, int64_t vectors) {
  return rows >= 1 && rows <= MOST_ROWS && vectors >= 1 && vectors <= MOST_VECTORS && tile_of(rows, vectors) != nullptr;
}

// The product of some rows with one head's panels.
struct Product {
  Tiling tiling;
  long depth, panels;
  const float* packed;
  Tile whole, rest;

  Product(const Tiling& t, const float* packed, long head, long depth, long columns, long rows)
      : tiling(t), depth(depth), panels((columns + t.vectors * LANES - 1) / (t.vectors * LANES)),
        packed(packed + head * panels * depth * t.vectors * LANES), whole(tile_of(t.rows, t.vectors)),
        rest(rows % t.rows ? tile_of(rows % t.rows, t.vectors) : nullptr) {}

  long columns() const { return panels * tiling.vectors * LANES; }

  void operator()(const float* a, long a_stride, long rows, float* c) const {
    const long width = tiling.vectors * LANES, c_stride = columns();
    for (long panel = 0; panel < panels; ++panel)
      for (long k = 0; k < depth; k += tiling.depth) {
        const long here = std::min<long>(tiling.depth, depth - k);
        const float* b = packed + (panel * depth + k) * width;
        long row = 0;
        for (; row + tiling.rows <= rows; row += tiling.rows) whole(a + row * a_stride + k, a_stride, b, here, c + row * c_stride + panel * width, c_stride, k > 0);
        if (row < rows) rest(a + row * a_stride + k, a_stride, b, here, c + row * c_stride + panel * width, c_stride, k > 0);
      }
  }
};

// ------------------------------------------------------------------------------------------------ cells

// The first `count` lanes; others are zero and are left alone.
static inline Vector load(const float* from, long count) {
  if (count >= LANES) return load(from);
#if defined(__AVX512F__)
  return _mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << count) - 1), from);
#else
  float padded[LANES] = {};
  std::memcpy(padded, from, count * sizeof(float));
  return load(padded);
#endif
}
static inline void store(float* to, Vector x, long count) {
  if (count >= LANES) return store(to, x);
#if defined(__AVX512F__)
  _mm512_mask_storeu_ps(to, static_cast<__mmask16>((1u << count) - 1), x);
#else
  float padded[LANES];
  store(padded, x);
  std::memcpy(to, padded, count * sizeof(float));
#endif
}

static inline Vector sigmoid(Vector x) { return sigmoid_of_negated(x * -LOG2_E); }
static inline Vector hyperbolic_tangent(Vector x) { return 2.0f * sigmoid_of_negated(x * (-2 * LOG2_E)) - 1.0f; }
static inline Vector exponential_of_negative(Vector x) { return power_of_two(greatest(least(x * LOG2_E, Vector{}), all(-LARGEST))); }

// log σ(x) = min(x, 0) − log(1 + e^−|x|), with log(1 + y) = 2 artanh(y / (2 + y)) and artanh's series, whose rest is below 1e-7 here.
static inline Vector log_sigmoid(Vector x) {
  const Vector y = exponential_of_negative(least(x, -x));
  const Vector s = y * reciprocal(2.0f + y), square = s * s;
  Vector p = square * (1.0f / 13) + 1.0f / 11;
  p = p * square + 1.0f / 9;
  p = p * square + 1.0f / 7;
  p = p * square + 1.0f / 5;
  p = p * square + 1.0f / 3;
  return least(x, Vector{}) - 2.0f * s * (p * square + 1.0f);
}

// A cell's numbers of gates and states; whether its hidden state is made in a second pass over the units, which shortens the chain of
// operations that wait for one another, so that the processor has several vectors under way; and one step of it, forwards (states are
// replaced) and backwards (flow, the gradient of the new states, is replaced by that of the old ones). As in recurrent_cells.py.
enum Squashing { TANH, RECTIFIER, LOGISTIC };
template <Squashing SQUASHING>
struct Elman {
  static constexpr int RECURRENT = 1, INPUTS = 1, BIASES = 1, STATES = 1, KEPT = 0;
  static constexpr bool TWICE = false;
  static inline void forward(const Vector* w, const Vector* r, const Vector* b, Vector* states, Vector*) {
    const Vector sum = w[0] + r[0] + b[0];
    states[0] = SQUASHING == TANH ? hyperbolic_tangent(sum) : SQUASHING == LOGISTIC ? sigmoid(sum) : greatest(sum, Vector{});
  }
  static inline void backward(Vector* flow, const Vector*, const Vector*, const Vector* after, Vector* deltas) {
    const Vector h = after[0];
    if (SQUASHING == RECTIFIER) deltas[0] = h > Vector{} ? flow[0] : Vector{};
    else deltas[0] = flow[0] * (SQUASHING == LOGISTIC ? h * (1.0f - h) : 1.0f - h * h);
    flow[0] = Vector{};
  }
};

struct Lstm {
  static constexpr int RECURRENT = 4, INPUTS = 4, BIASES = 4, STATES = 2, KEPT = 4;
  static constexpr bool TWICE = true;
  static inline void forward(const Vector* w, const Vector* r, const Vector* b, Vector* states, Vector* kept) {
    const Vector i = sigmoid(w[0] + r[0] + b[0]), f = sigmoid(w[1] + r[1] + b[1]);
    const Vector z = hyperbolic_tangent(w[2] + r[2] + b[2]), o = sigmoid(w[3] + r[3] + b[3]);
    states[1] = f * states[1] + i * z;
    states[0] = o;  // until `finish` makes the hidden state of it
    kept[0] = i, kept[1] = f, kept[2] = z, kept[3] = o;
  }
  static inline Vector finish(Vector open, Vector cell) { return open * hyperbolic_tangent(cell); }
  static inline void backward(Vector* flow, const Vector* kept, const Vector* before, const Vector* after, Vector* deltas) {
    const Vector i = kept[0], f = kept[1], z = kept[2], o = kept[3], shown = hyperbolic_tangent(after[1]);
    const Vector c = flow[1] + flow[0] * o * (1.0f - shown * shown);
    deltas[0] = c * z * i * (1.0f - i);
    deltas[1] = c * before[1] * f * (1.0f - f);
    deltas[2] = c * i * (1.0f - z * z);
    deltas[3] = flow[0] * shown * o * (1.0f - o);
    flow[0] = Vector{}, flow[1] = c * f;
  }
};

struct Gru {
  static constexpr int RECURRENT = 3, INPUTS = 3, BIASES = 4, STATES = 1, KEPT = 4;
  static constexpr bool TWICE = false;
  static inline void forward(const Vector* w, const Vector* r, const Vector* b, Vector* states, Vector* kept) {
    const Vector inner = r[0] + b[0], reset = sigmoid(w[0] + r[1] + b[1]), update = sigmoid(w[1] + r[2] + b[2]);
    const Vector fresh = hyperbolic_tangent(w[2] + b[3] + reset * inner);
    states[0] = fresh + update * (states[0] - fresh);
    kept[0] = inner, kept[1] = reset, kept[2] = update, kept[3] = fresh;
  }
  static inline void backward(Vector* flow, const Vector* kept, const Vector* before, const Vector*, Vector* deltas) {
    const Vector inner = kept[0], reset = kept[1], update = kept[2], fresh = kept[3];
    const Vector of_fresh = flow[0] * (1.0f - update) * (1.0f - fresh * fresh);
    deltas[0] = of_fresh * reset;
    deltas[1] = of_fresh * inner * reset * (1.0f - reset);
    deltas[2] = flow[0] * (before[0] - fresh) * update * (1.0f - update);
    deltas[3] = of_fresh;
    flow[0] *= update;
  }
};

struct Slstm {
  static constexpr int RECURRENT = 4, INPUTS = 4, BIASES = 4, STATES = 4, KEPT = 5;
  static constexpr bool TWICE = false;
  static inline void forward(const Vector* w, const Vector* r, const Vector* b, Vector* states, Vector* kept) {
    const Vector i = w[0] + r[0] + b[0], f = w[1] + r[1] + b[1];
    const Vector z = hyperbolic_tangent(w[2] + r[2] + b[2]), o = sigmoid(w[3] + r[3] + b[3]);
    const Vector forgotten = log_sigmoid(f) + states[3];
    const Whole first = states[2] == Vector{};
    const Vector stabiliser = first | (i >= forgotten) ? i : forgotten;
    const Vector enter = exponential_of_negative(i - stabiliser);
    const Vector stay = first ? Vector{} : exponential_of_negative(forgotten - stabiliser);
    states[1] = stay * states[1] + enter * z;
    states[2] = greatest(stay * states[2] + enter, all(1.0f));
    states[3] = stabiliser;
    states[0] = o * states[1] / states[2];
    kept[0] = enter, kept[1] = stay, kept[2] = z, kept[3] = o, kept[4] = sigmoid(-f);
  }
  static inline void backward(Vector* flow, const Vector* kept, const Vector* before, const Vector* after, Vector* deltas) {
    const Vector enter = kept[0], stay = kept[1], z = kept[2], o = kept[3], closed = kept[4], inverse = 1.0f / after[2];
    const Vector shown = after[1] * inverse, c = flow[1] + flow[0] * o * inverse;
    // where the bound holds n, it passes no gradient
    const Vector n = stay * before[2] + enter < all(1.0f) ? Vector{} : flow[2] - flow[0] * o * shown * inverse;
    deltas[0] = (c * z + n) * enter;
    deltas[1] = (c * before[1] + n * before[2]) * stay * closed;
    deltas[2] = c * enter * (1.0f - z * z);
    deltas[3] = flow[0] * shown * o * (1.0f - o);
    flow[0] = Vector{}, flow[1] = c * stay, flow[2] = n * stay, flow[3] = Vector{};
  }
};

// ------------------------------------------------------------------------------------------------ walks

static inline long padded(long size) { return (size + LANES - 1) / LANES * LANES; }

// One head and some rows: their states (or the gradients that flow back through them) between two steps.
template <class Cell>
struct Walk {
  const Problem& p;
  const long head, first, rows, size, wide;
  const long position = p.heads * p.size, plane = p.batch * p.length * position;  // numbers of a position, and of a state at all positions
  const long depth, stride;  // of the deltas of a row
  const Product product;
  std::vector<float> held;  // (states, rows, wide)
  std::vector<float> products;
  std::vector<float> bias;    // forwards, (bias gates, wide)
  std::vector<float> sums;    // backwards, of the gradients of pre-activations, (bias gates, wide)
  std::vector<float> deltas;  // backwards, (rows, stride)

  Walk(const Problem& p, long head, long first, long rows, bool backwards)
      : p(p), head(head), first(first), rows(rows), size(p.size), wide(padded(p.size)), depth(Cell::RECURRENT * size), stride(depth + LANES),
        product(p.tiling, p.panels, head, backwards ? depth : size, backwards ? size : depth, rows), held(Cell::STATES * rows * wide),
        products(rows * product.columns() + LANES) {
    backwards ? begin_backward() : begin_forward();
  }

  float* hold(int state, long row) { return &held[(state * rows + row) * wide]; }
  long place(long row, long t) const { return (first + row) * p.length + t; }  // of a position
  long initial(int state, long row) const { return ((state * p.batch + first + row) * p.heads + head) * size; }
  bool real(long row, long t) const { return !p.real || p.real[place(row, t)]; }
  bool fresh(long row, long t) const { return p.fresh && p.fresh[place(row, t)]; }
  bool anyone(long t) const {
    for (long row = 0; row < rows; ++row)
      if (real(row, t)) return true;
    return false;
  }

  void begin_forward() {
    bias.assign(Cell::BIASES * wide, 0.0f);
    for (int g = 0; g < Cell::BIASES; ++g) std::copy_n(p.bias + (g * p.heads + head) * size, size, &bias[g * wide]);
    for (int s = 0; s < Cell::STATES; ++s)
      for (long row = 0; row < rows; ++row) std::copy_n(p.initial + initial(s, row), size, hold(s, row));
  }

  void forward(long t) {
    for (long row = 0; row < rows; ++row) read(row, t);
    if (anyone(t)) product(held.data(), wide, rows, products.data());
    for (long row = 0; row < rows; ++row) {
      if (real(row, t)) step(row, t, &products[row * product.columns()]);
      else
        for (int s = 0; s < Cell::STATES; ++s) std::copy_n(hold(s, row), size, p.states + s * plane + place(row, t) * position + head * size);
    }
  }

  // What a step reads: nothing where a sequence begins, a decayed hidden state.
  void read(long row, long t) {
    if (!real(row, t)) return;
    if (fresh(row, t))
      for (int s = 0; s < Cell::STATES; ++s) std::fill_n(hold(s, row), wide, 0.0f);
    if (p.decay) {
      const float* decay = p.decay + place(row, t) * position + head * size;
      float* hidden = hold(0, row);
      for (long d = 0; d < size; ++d) hidden[d] *= decay[d];
    }
  }

  // A head's share of the positions lies in pieces far apart, where no prefetcher looks for them: `count` pieces of a later step.
  template <bool WRITTEN>
  void fetch(const float* from, long count, long stride) const {
    for (long piece = 0; piece < count; ++piece)
      for (long d = 0; d < size; d += 16) __builtin_prefetch(from + piece * stride + d, WRITTEN);
  }

  void step(long row, long t, const float* sums_of_row) {
    const float* inputs = p.inputs + place(row, t) * Cell::INPUTS * position + head * size;
    float* keep = p.kept ? p.kept + place(row, t) * Cell::KEPT * position + head * size : nullptr;
    if (t + AHEAD < p.length) {
      fetch<false>(inputs + AHEAD * Cell::INPUTS * position, Cell::INPUTS, position);
      fetch<true>(p.states + place(row, t + AHEAD) * position + head * size, Cell::STATES, plane);
      if (keep) fetch<true>(keep + AHEAD * Cell::KEPT * position, Cell::KEPT, position);
    }
    float* shown = p.states + place(row, t) * position + head * size;
    float* held_here[Cell::STATES];
    for (int s = 0; s < Cell::STATES; ++s) held_here[s] = hold(s, row);
    const auto units = [&](long d, long count) __attribute__((always_inline)) {
      Vector w[Cell::INPUTS], r[Cell::RECURRENT], b[Cell::BIASES], states[Cell::STATES], kept[Cell::KEPT + 1];
#pragma GCC unroll 5
      for (int g = 0; g < Cell::INPUTS; ++g) w[g] = load(inputs + g * position + d, count);
#pragma GCC unroll 5
      for (int g = 0; g < Cell::RECURRENT; ++g) r[g] = load(sums_of_row + g * size + d);
#pragma GCC unroll 5
      for (int g = 0; g < Cell::BIASES; ++g) b[g] = load(&bias[g * wide + d]);
#pragma GCC unroll 5
      for (int s = 0; s < Cell::STATES; ++s) states[s] = load(held_here[s] + d);
      Cell::forward(w, r, b, states, kept);
#pragma GCC unroll 5
      for (int s = 0; s < Cell::STATES; ++s) {
        store(held_here[s] + d, states[s]);
        store(shown + s * plane + d, states[s], count);
      }
      if (keep)
#pragma GCC unroll 5
        for (int k = 0; k < Cell::KEPT; ++k) store(keep + k * position + d, kept[k], count);
    };
    long d = 0;
    for (; d + LANES <= size; d += LANES) units(d, LANES);  // a constant count leaves no test for a last vector
    if (d < size) units(d, size - d);
    if constexpr (Cell::TWICE)
      for (d = 0; d < size; d += LANES) {
        const Vector hidden = Cell::finish(load(held_here[0] + d), load(held_here[1] + d));
        store(held_here[0] + d, hidden);
        store(shown + d, hidden, size - d);
      }
  }

  void begin_backward() {
    deltas.assign(rows * stride, 0.0f);
    sums.assign(Cell::BIASES * wide, 0.0f);
    for (int s = 0; s < Cell::STATES; ++s)
      for (long row = 0; row < rows; ++row)
        if (p.last_flow) std::copy_n(p.last_flow + initial(s, row), size, hold(s, row));
  }

  void backward(long t) {
    for (long row = 0; row < rows; ++row) {
      arrive(row, t);
      if (real(row, t)) back(row, t, &deltas[row * stride]);
      else skip(row, t, &deltas[row * stride]);
    }
    if (!anyone(t)) return;
    if (!p.cut) product(deltas.data(), stride, rows, products.data());
    for (long row = 0; row < rows; ++row)
      if (real(row, t)) leave(row, t, p.cut ? nullptr : &products[row * product.columns()]);
  }

  void end_backward() {
    for (int s = 0; s < Cell::STATES; ++s)
      for (long row = 0; row < rows; ++row) std::copy_n(hold(s, row), size, p.initial_gradient + initial(s, row));
    float* to = p.bias_gradient + first / p.task_rows * Cell::BIASES * position + head * size;
    for (int g = 0; g < Cell::BIASES; ++g) std::copy_n(&sums[g * wide], size, to + g * position);
  }

  void arrive(long row, long t) {
    for (int s = 0; s < Cell::STATES; ++s) {
      if (!p.flow[s]) continue;
      const float* flow = p.flow[s] + place(row, t) * position + head * size;
      float* held = hold(s, row);
      for (long d = 0; d < size; ++d) held[d] += flow[d];
    }
  }

  // Where states came from that step t read, before any decay; null where it began a sequence.
  const float* earlier(int state, long row, long t) const {
    if (fresh(row, t)) return nullptr;
    return t ? p.states + state * plane + place(row, t - 1) * position + head * size : p.initial + initial(state, row);
  }

  void back(long row, long t, float* deltas_of_row) {
    const long at = place(row, t) * position + head * size;
    const float* kept_here = Cell::KEPT ? p.kept + place(row, t) * Cell::KEPT * position + head * size : nullptr;
    float* deltas_here = p.deltas + place(row, t) * Cell::BIASES * position + head * size;
    const float* from[Cell::STATES];
    for (int s = 0; s < Cell::STATES; ++s) from[s] = earlier(s, row, t);
    if (t >= AHEAD) {
      fetch<false>(p.states + at - (AHEAD + 1) * position, t > AHEAD ? Cell::STATES : 0, plane);
      for (const float* flow : p.flow)
        if (flow) fetch<false>(flow + at - AHEAD * position, 1, 0);
      fetch<false>(kept_here - AHEAD * Cell::KEPT * position, Cell::KEPT, position);
      fetch<true>(deltas_here - AHEAD * Cell::BIASES * position, Cell::BIASES, position);
    }
    for (long d = 0; d < size; d += LANES) {
      const long count = size - d;
      Vector flow[Cell::STATES], kept[Cell::KEPT + 1], before[Cell::STATES], after[Cell::STATES], deltas[Cell::BIASES];
#pragma GCC unroll 5
      for (int s = 0; s < Cell::STATES; ++s) {
        flow[s] = load(hold(s, row) + d);
        before[s] = from[s] ? load(from[s] + d, count) : Vector{};
        after[s] = load(p.states + s * plane + at + d, count);
      }
      if (p.decay) before[0] *= load(p.decay + at + d, count);
#pragma GCC unroll 5
      for (int k = 0; k < Cell::KEPT; ++k) kept[k] = load(kept_here + k * position + d, count);
      Cell::backward(flow, kept, before, after, deltas);
#pragma GCC unroll 5
      for (int s = 0; s < Cell::STATES; ++s) store(hold(s, row) + d, flow[s]);
#pragma GCC unroll 5
      for (int g = 0; g < Cell::BIASES; ++g) {
        store(deltas_here + g * position + d, deltas[g], count);
        store(&sums[g * wide + d], load(&sums[g * wide + d]) + deltas[g]);
        if (g < Cell::RECURRENT) store(deltas_of_row + g * size + d, deltas[g], count);
      }
    }
  }

  void skip(long row, long t, float* deltas_of_row) {
    float* deltas_here = p.deltas + place(row, t) * Cell::BIASES * position + head * size;
    for (int g = 0; g < Cell::BIASES; ++g) std::fill_n(deltas_here + g * position, size, 0.0f);
    std::fill_n(deltas_of_row, Cell::RECURRENT * size, 0.0f);
    if (p.decay) std::fill_n(p.decay_gradient + place(row, t) * position + head * size, size, 0.0f);
  }

  // From the states that step t read to those before it.
  void leave(long row, long t, const float* through) {
    float* hidden = hold(0, row);
    const float bound = static_cast<float>(p.clip);
    if (through)
      for (long d = 0; d < size; ++d) hidden[d] += through[d] > bound ? bound : through[d] < -bound ? -bound : through[d];
    if (p.decay) {
      const long at = place(row, t) * position + head * size;
      const float* from = earlier(0, row, t);
      for (long d = 0; d < size; ++d) {
        p.decay_gradient[at + d] = from ? hidden[d] * from[d] : 0.0f;
        hidden[d] *= p.decay[at + d];
      }
    }
    if (fresh(row, t))
      for (int s = 0; s < Cell::STATES; ++s) std::fill_n(hold(s, row), wide, 0.0f);
  }
};

template <class Cell>
static void walk(const Problem& p, bool backwards) {
  const long groups = (p.batch + p.task_rows - 1) / p.task_rows, bundles = (p.heads + p.bundle - 1) / p.bundle;
#pragma omp parallel for schedule(dynamic) num_threads(p.threads)
  for (long task = 0; task < bundles * groups; ++task) {
    const long first = task % groups * p.task_rows, head = task / groups * p.bundle;
    std::vector<Walk<Cell>> walks;
    walks.reserve(p.bundle);
    for (long h = head; h < std::min<long>(head + p.bundle, p.heads); ++h)
      walks.emplace_back(p, h, first, std::min<long>(p.task_rows, p.batch - first), backwards);
    for (long step = 0; step < p.length; ++step)
      for (Walk<Cell>& one : walks)
        if (backwards) one.backward(p.length - 1 - step);
        else one.forward(step);
    if (backwards)
      for (Walk<Cell>& one : walks) one.end_backward();
  }
}

static void walk(const Problem& p, bool backwards) {
  switch (p.function) {
    case 0: return walk<Elman<TANH>>(p, backwards);
    case 1: return walk<Elman<RECTIFIER>>(p, backwards);
    case 2: return walk<Lstm>(p, backwards);
    case 3: return walk<Gru>(p, backwards);
    case 4: return walk<Slstm>(p, backwards);
    case 5: return walk<Elman<LOGISTIC>>(p, backwards);
  }
}

extern "C" void recurrent_forward(const Problem* problem) { walk(*problem, false); }
extern "C" void recurrent_backward(const Problem* problem) { walk(*problem, true); }
