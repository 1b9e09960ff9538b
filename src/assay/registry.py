"""One table of strings, name → "module:Attribute", resolved on use so that start-up stays quick.

Users add to it by entry points (group ``assay.<kind>``, for example ``assay.mixer``) or name a file: ``mine.py:MyMixer``.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import inspect
import json
import sys
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from assay.errors import UserError
from assay.options import refuse_mistyped

TABLE: dict[str, dict[str, str]] = {
    "mixer": {
        "attention": "assay.nn.attention.softmax:SoftmaxAttention",
        "sigmoid-attention": "assay.nn.attention.sigmoid:SigmoidAttention",
        "urpe": "assay.nn.attention.universal_relative:UniversalRelativeAttention",
        "aaren": "assay.nn.attention.aaren:Aaren",
        "linear-attention": "assay.nn.attention.linear:LinearAttention",
        "random-feature-attention": "assay.nn.attention.random_feature:RandomFeatureAttention",
        "taylor-attention": "assay.nn.attention.taylor:TaylorAttention",
        "local-attention": "assay.nn.attention.local:LocalAttention",
        "sliding-window-attention": "assay.nn.attention.sliding_window:SlidingWindowAttention",
        "block-sparse-attention": "assay.nn.attention.block_sparse:BlockSparseAttention",
        "strided-sparse-attention": "assay.nn.attention.strided_sparse:StridedSparseAttention",
        "low-rank-attention": "assay.nn.attention.low_rank:LowRankAttention",
        "sinkhorn-attention": "assay.nn.attention.sinkhorn:SinkhornAttention",
        "synthesizer": "assay.nn.attention.synthesizer:SynthesizerAttention",
        "hopfield": "assay.nn.attention.hopfield:HopfieldRetrieval",
        "selective-attention": "assay.nn.attention.selective:SelectiveAttention",
        "row-selective-attention": "assay.nn.attention.selective:RowSelectiveAttention",
        "ngram-attention": "assay.nn.attention.ngram:NGramAttention",
        "lstm": "assay.nn.recurrent.reference:LSTM",
        "gru": "assay.nn.recurrent.reference:GRU",
        "gru-original": "assay.nn.recurrent.original_gru:OriginalGRU",
        "elman": "assay.nn.recurrent.reference:Elman",
        "jordan": "assay.nn.recurrent.jordan:Jordan",
        "lstm-forget": "assay.nn.recurrent.historical:HistoricalLSTM",
        "lstm-original": "assay.nn.recurrent.historical:OriginalLSTM",
        "lstm-peephole": "assay.nn.recurrent.historical:PeepholeLSTM",
        "lstm-coupled": "assay.nn.recurrent.historical:CoupledLSTM",
        "bilstm": "assay.nn.recurrent.bidirectional:BidirectionalLSTM",
        "ntm": "assay.nn.memory.turing_machine:NeuralTuringMachine",
        "multi-head-lstm": "assay.nn.recurrent.multi_head:MultiHeadLSTM",
        "multi-head-gru": "assay.nn.recurrent.multi_head:MultiHeadGRU",
        "multi-head-elman": "assay.nn.recurrent.multi_head:MultiHeadElman",
        "slstm": "assay.nn.recurrent.multi_head:SLSTM",
        "min-gru": "assay.nn.recurrent.min_gru:MinGRU",
        "min-lstm": "assay.nn.recurrent.min_gru:MinLSTM",
        "lru": "assay.nn.recurrent.linear_recurrent_unit:LinearRecurrentUnit",
        "retention": "assay.nn.recurrent.retention:Retention",
        "gated-linear-attention": "assay.nn.recurrent.gated_linear_attention:GatedLinearAttention",
        "gated-delta": "assay.nn.recurrent.gated_delta:GatedDelta",
        "rwkv": "assay.nn.recurrent.rwkv4:RWKV4TimeMix",
        "s4d": "assay.nn.state_space.s4d:S4D",
        "lssl": "assay.nn.state_space.lssl:LSSL",
        "mamba": "assay.nn.state_space.selective:SelectiveStateSpace",
        "h3": "assay.nn.state_space.h3:H3",
        "short-convolution": "assay.nn.convolution.short:ShortConvolution",
        "long-convolution": "assay.nn.convolution.long:LongConvolutionMixer",
        "base-conv": "assay.nn.convolution.base:BaseConv",
        "base-conv-short": "assay.nn.convolution.base:ShortBaseConv",
        "hyena": "assay.nn.convolution.hyena:Hyena",
        "dilated-convolution": "assay.nn.convolution.dilated:DilatedTCN",
        "damped-ema": "assay.nn.recurrent.damped_ema:DampedEMA",
        "mega": "assay.nn.attention.gated_chunked:Mega",
        "tcnca": "assay.nn.attention.gated_chunked:TCNCA",
        "tcnca-simple": "assay.nn.attention.gated_chunked:SimplifiedTCNCA",
        "neural-memory": "assay.nn.memory.neural_memory:NeuralMemory",
        "titans-mac": "assay.nn.memory.titans:MemoryAsContext",
        "titans-mag": "assay.nn.memory.titans:MemoryAsGate",
        "titans-mal": "assay.nn.memory.titans:MemoryAsLayer",
        "masked-rnn-tanh": "assay.nn.recurrent.masked:MaskedTanh",
        "masked-rnn-relu": "assay.nn.recurrent.masked:MaskedReLU",
        "masked-gru": "assay.nn.recurrent.masked:MaskedGRU",
        "masked-lstm": "assay.nn.recurrent.masked:MaskedLSTM",
    },
    "activation": {
        "identity": "torch.nn:Identity",
        "relu": "torch.nn:ReLU",
        "squared-relu": "assay.nn.channel.activation:SquaredReLU",
        "gelu": "torch.nn:GELU",
        "silu": "torch.nn:SiLU",
        "mish": "torch.nn:Mish",
        "elu": "torch.nn:ELU",
        "tanh": "torch.nn:Tanh",
        "sigmoid": "torch.nn:Sigmoid",
        "erf": "assay.nn.channel.activation:Erf",
        "prelu": "torch.nn:PReLU",
        "glu": "assay.nn.channel.activation:GLU",
        "swiglu": "assay.nn.channel.activation:SwiGLU",
        "geglu": "assay.nn.channel.activation:GEGLU",
        "reglu": "assay.nn.channel.activation:ReGLU",
        "poly-relu": "assay.nn.channel.polynomial:PolyReLU",
        "poly-norm": "assay.nn.channel.polynomial:PolyNorm",
        "hermite-optimal": "assay.nn.channel.hermite:OptimalActivation",
    },
    "part": {
        "relative-attention": "assay.ops.relative_attention:relative_attention",
        "graph-relative-attention": "assay.nn.attention.universal_relative:GraphRelativeAttention",
        "prefix-attention": "assay.ops.prefix_attention:prefix_attention",
        "linear-recurrence": "assay.ops.linear_recurrence:linear_recurrence",
        "recurrent-scan": "assay.ops.recurrent_scan:recurrent_scan",
        "drop-in-lstm": "assay.nn.recurrent.drop_in:LSTM",
        "drop-in-gru": "assay.nn.recurrent.drop_in:GRU",
        "drop-in-rnn": "assay.nn.recurrent.drop_in:RNN",
        "integer-constraints": "assay.ops.constraints:Problem",
        "chunked-linear-attention": "assay.ops.linear_attention:linear_attention",
        "diagonal-state-space": "assay.nn.state_space.diagonal:DiagonalStateSpace",
        "linear-state-space": "assay.nn.state_space.linear:LinearStateSpace",
        "delta-rule": "assay.ops.delta_rule:delta_rule",
        "masked-attention": "assay.ops.masked_attention:masked_attention",
        "sigmoid-attention-operation": "assay.ops.sigmoid_attention:sigmoid_attention",
        "dilated-convolution-operation": "assay.ops.dilated_convolution:dilated_convolution",
        "gated-chunked-attention": "assay.nn.attention.gated_chunked:GatedChunkedAttention",
        "rotary-bias": "assay.nn.position.rotary_bias:RotaryBias",
        "hyper-network-linear": "assay.nn.hyper_network:HyperNetworkLinear",
        "capsule-routing": "assay.nn.capsules:CapsuleRouting",
        "mixture-of-experts": "assay.nn.channel.experts:MixtureOfExperts",
        "polynomial-composition": "assay.nn.channel.polynomial:PolynomialComposition",
        "saf-pool": "assay.nn.pooling:SAFPool2d",
        "scaled-residual": "assay.nn.residual:ScaledResidual",
        "adaptive-propagation": "assay.nn.graph.propagation:AdaptivePropagation",
        "end-to-end-memory": "assay.nn.memory.end_to_end:EndToEndMemory",
        "surprise-scan": "assay.ops.surprise_scan:surprise_scan",
        "persistent-attention": "assay.nn.attention.persistent:PersistentAttention",
        "hopfield-network": "assay.nn.memory.associative:HopfieldNetwork",
        "mixture-density": "assay.nn.mixture_density:MixtureDensityHead",
        "finite-state-network": "assay.nn.recurrent.finite_state:FiniteStateNetwork",
        "bidirectional": "assay.nn.recurrent.bidirectional:Bidirectional",
        "initialise-recurrent": "assay.nn.recurrent.initialisation:initialise_recurrent_",
        "initialise-critical": "assay.models.initialisation:initialise_critical_",
        "learning-rate-groups": "assay.training.learning_rates:learning_rate_groups",
        "masked-recurrent-cell": "assay.nn.recurrent.masked:MaskedRecurrentCell",
        "layered-dag": "assay.nn.recurrent.layered:layered_dag",
        "hierarchical-convolution-1d": "assay.nn.convolution.hierarchical:HierarchicalConvolution1d",
        "hierarchical-convolution-2d": "assay.nn.convolution.hierarchical:HierarchicalConvolution2d",
    },
    "model": {
        "mlp": "assay.models.mlp:MLPFamily",
        "simplenet": "assay.models.vision.simplenet:SimpleNetFamily",
        "inception-v4": "assay.models.vision.inception:InceptionV4Family",
        "inception-resnet-v1": "assay.models.vision.inception:InceptionResNetV1Family",
        "inception-resnet-v2": "assay.models.vision.inception:InceptionResNetV2Family",
        "capsules": "assay.models.vision.capsules:CapsuleFamily",
        "resnet": "assay.models.vision.resnet:ResNetFamily",
        "fcn": "assay.models.vision.fully_convolutional:FullyConvolutionalFamily",
        "dagnn": "assay.models.graph:DAGNNFamily",
        "decoupled-gnn": "assay.models.graph:DecoupledFamily",
        "gcn": "assay.models.graph:GCNFamily",
        "gat": "assay.models.graph:GATFamily",
        "appnp": "assay.models.graph:APPNPFamily",
        "sgc": "assay.models.graph:SGCFamily",
        "recurrent-classifier": "assay.models.recurrent:RecurrentClassifierFamily",
        "graph-recurrent": "assay.models.recurrent:GraphRecurrentFamily",
        "encoder-decoder": "assay.models.encoder_decoder:EncoderDecoderFamily",
        "ctc": "assay.models.connectionist:ConnectionistFamily",
        "memory-network": "assay.models.memory:MemoryNetworkFamily",
    },
    "estimator": {
        "majority": "assay.models.estimators:Majority",
        "logistic-regression": "assay.models.estimators:Logistic",
        "svm": "assay.models.estimators:SupportVectors",
        "gradient-boosting": "assay.models.estimators:GradientBoosting",
        "ridge": "assay.models.estimators:RidgeValues",
        "minirocket": "assay.models.estimators:MiniRocket",
        "seasonal-naive": "assay.models.estimators:SeasonalNaive",
        "ngram": "assay.models.estimators:NGram",
        "tfidf": "assay.models.estimators:TfIdf",
        "label-propagation": "assay.models.estimators:LabelPropagation",
        "poisson": "assay.models.estimators:PoissonEvents",
        "constant-strokes": "assay.models.estimators:ConstantStrokes",
        "in-context-ngram": "assay.models.estimators:InContextNGram",
        "hyperdimensional": "assay.models.estimators:Hyperdimensional",
        "behaviour-majority": "assay.models.estimators:PositionMajority",
        "ntk": "assay.models.estimators:InfiniteWidth",
        "infinite-depth": "assay.models.estimators:InfiniteDepth",
    },
    "task": {
        "digits": "assay.tasks.builtin:digits",
        "italy-power-demand": "assay.tasks.builtin:italy_power_demand",
        "gunpoint": "assay.tasks.builtin:gunpoint",
        "arrow-head": "assay.tasks.builtin:arrow_head",
        "osu-leaf": "assay.tasks.builtin:osu_leaf",
        "acsf1": "assay.tasks.builtin:acsf1",
        "basic-motions": "assay.tasks.builtin:basic_motions",
        "japanese-vowels": "assay.tasks.builtin:japanese_vowels",
        "karate": "assay.tasks.graphs:karate",
        "weather": "assay.tasks.builtin:weather",
        "co2": "assay.tasks.builtin:co2",
        "flights": "assay.tasks.events:flights",
        "kanji-strokes": "assay.tasks.strokes:kanji_strokes",
        "cartpole": "assay.tasks.decisions:cartpole",
        "reber": "assay.tasks.synthetic.reber:reber",
        "embedded-reber": "assay.tasks.synthetic.reber:embedded_reber",
        "questions": "assay.tasks.synthetic.questions:questions",
        "recall": "assay.tasks.synthetic.recall:multi_query_recall",
        "associative-recall": "assay.tasks.synthetic.recall:associative_recall",
        "first-symbol": "assay.tasks.synthetic.first_symbol:first_symbol",
        "parity": "assay.tasks.synthetic.state_tracking:parity",
        "string-parity": "assay.tasks.synthetic.string_parity:string_parity",
        "modular-counting": "assay.tasks.synthetic.state_tracking:modular_counting",
        "permutations": "assay.tasks.synthetic.state_tracking:permutations",
        "induction": "assay.tasks.synthetic.recall:induction",
        "in-context-languages": "assay.tasks.synthetic.in_context_languages:in_context_languages",
        "glyphs": "assay.tasks.synthetic.glyphs:glyphs",
        "dirichlet-classes": "assay.tasks.synthetic.dirichlet:dirichlet_classes",
        "block-model": "assay.tasks.synthetic.block_model:block_model",
        "wordnet": "assay.tasks.wordnet:wordnet",
        "python-source": "assay.tasks.python_source:python_source",
        "position-identification": "assay.tasks.synthetic.positions:position_identification",
        "listops": "assay.tasks.synthetic.listops:listops",
        "document-matching": "assay.tasks.synthetic.matching:document_matching",
        "pathfinder": "assay.tasks.synthetic.pathfinder:pathfinder",
        "planted-key": "assay.tasks.synthetic.planted_key:planted_key",
        "needle": "assay.tasks.synthetic.needle:needle",
        "needle-in-text": "assay.tasks.synthetic.needle:needle_in_text",
        "passages": "assay.tasks.passages:passages",
        "adding": "assay.tasks.synthetic.adding:adding",
        "delayed-bit": "assay.tasks.synthetic.delayed_bit:delayed_bit",
        "continual-reber": "assay.tasks.synthetic.continual_reber:continual_reber",
        "copying": "assay.tasks.synthetic.copying:copying",
        "timed-spikes": "assay.tasks.synthetic.timed_spikes:timed_spikes",
        "window-sign": "assay.tasks.synthetic.window_sign:window_sign",
        "transduction": "assay.tasks.synthetic.transduction:transduction",
        "captions": "assay.tasks.synthetic.captions:captions",
        "translation": "assay.tasks.translation:translation",
        "python-tags": "assay.tasks.python_tags:python_tags",
        "digit-strings": "assay.tasks.digit_strings:digit_strings",
        "even-tokens": "assay.tasks.synthetic.positions:even_tokens",
        "spoken-prompts": "assay.tasks.speech:spoken_prompts",
        "tone-words": "assay.tasks.synthetic.signals:tone_words",
        "tone-frequency": "assay.tasks.synthetic.signals:tone_frequency",
        "delayed-copy": "assay.tasks.synthetic.signals:delayed_copy",
        "pixel-digits": "assay.tasks.pixels:pixel_digits",
    },
    "method": {
        "gradient-noise": "assay.training.methods.gradient_noise:GradientNoise",
        "clip": "assay.training.methods.clipping:Clipping",
        "weight-averaging": "assay.training.methods.weight_averaging:WeightAveraging",
        "truncated-backpropagation": "assay.training.methods.truncated_backpropagation:TruncatedBackpropagation",
        "hessian-free": "assay.training.methods.hessian_free:HessianFree",
        "vanishing-gradient-penalty": "assay.training.methods.vanishing_gradient:VanishingGradientPenalty",
        "forward-forward": "assay.training.methods.forward_forward:ForwardForward",
        "guidance": "assay.training.methods.guidance:Guidance",
    },
    "compressor": {"magnitude": "assay.compression.magnitude:Magnitude", "fold": "assay.compression.fold:Fold"},
    "probe": {
        "smoothness": "assay.inspection.smoothness:Smoothness",
        "noise": "assay.inspection.noise:NoiseToGradient",
        "kernels": "assay.inspection.kernels:Kernels",
        "attention": "assay.inspection.attention:AttentionView",
        "recall": "assay.inspection.recall:Recall",
        "surprise": "assay.inspection.surprise:Surprise",
        "gradient-flow": "assay.inspection.gradient_flow:GradientFlow",
        "gates": "assay.inspection.gates:Gates",
        "criticality": "assay.inspection.criticality:CriticalityProbe",
        "alignment": "assay.inspection.alignment:Alignment",
        "guides": "assay.inspection.guides:Guides",
        "in-context-algorithm": "assay.inspection.languages:InContextAlgorithm",
        "language-states": "assay.inspection.hidden_states:LanguageStates",
        "capacity": "assay.inspection.capacity:Capacity",
        "kernel": "assay.inspection.tangent_kernel:TangentKernel",
        "scale": "assay.inspection.scale:Scale",
    },
    "exporter": {
        "onnx": "assay.exporters.onnx:to_onnx",
        "torch": "assay.exporters.torch_export:to_torch",
        "safetensors": "assay.exporters.safetensors:to_safetensors",
    },
    "paper": {
        "simplenet": "assay.papers.simplenet:PAPER",
        "inception": "assay.papers.inception:PAPER",
        "dagnn": "assay.papers.dagnn:PAPER",
        "aaren": "assay.papers.aaren:PAPER",
        "gradient-noise": "assay.papers.gradient_noise:PAPER",
        "sparse-rnn": "assay.papers.sparse_rnn:PAPER",
        "urpe": "assay.papers.urpe:PAPER",
        "sigmoid-attention": "assay.papers.sigmoid_attention:PAPER",
        "wide-attention": "assay.papers.wide_attention:PAPER",
        "zoology": "assay.papers.zoology:PAPER",
        "tcnca": "assay.papers.tcnca:PAPER",
        "icll": "assay.papers.icll:PAPER",
        "polycom": "assay.papers.polycom:PAPER",
        "flashrnn": "assay.papers.flashrnn:PAPER",
        "rnn-review": "assay.papers.rnn_review:PAPER",
        "after-transformers": "assay.papers.after_transformers:PAPER",
        "lssl": "assay.papers.lssl:PAPER",
        "deep-learning-theory": "assay.papers.deep_learning_theory:PAPER",
        "titans": "assay.papers.titans:PAPER",
        "optimal-classification": "assay.papers.optimal_classification:PAPER",
        "guidance": "assay.papers.guidance:PAPER",
        "wide-cnn-spectrum": "assay.papers.wide_cnn_spectrum:PAPER",
    },
}


def names(kind: str) -> list[str]:
    """Every registered name of a kind, users' entry points included."""
    return [*TABLE[kind], *sorted(_entry_points(kind))]


def known(kind: str, name: str) -> bool:
    """Whether `resolve` would find the name without reading a file."""
    return name in TABLE[kind] or name in _entry_points(kind)


def resolve(kind: str, name: str) -> Any:
    """The object behind a name, or behind ``file.py:Class``.

    Args:
        kind: a key of `TABLE`.
        name: a registered name, an entry point, or ``path/to/file.py:Attribute``.

    Raises:
        UserError: nothing has that name; the message offers the nearest ones.
    """
    if is_file_reference(name):
        return load_file_attribute(name)
    if name in TABLE[kind]:
        module, attribute = TABLE[kind][name].split(":")
        return getattr(importlib.import_module(module), attribute)
    points = _entry_points(kind)
    if name in points:
        return points[name].load()
    near = difflib.get_close_matches(name, names(kind), n=3) or names(kind)
    raise UserError(f"There is no {kind} named {name!r}; did you mean {', '.join(near)}? (or name your own: file.py:Class)")


def make(kind: str, text: str) -> Any:
    """An object of a kind from its command-line form, ``name`` or ``name:option=value,option=value``; values are JSON, or words.

    Args:
        kind: a key of `TABLE`, of things that are made by calling them: ``method``, ``probe``.
        text: for example ``gradient-noise:eta=0.05,gamma=0.55`` or ``mine.py:MyMethod``.

    Raises:
        UserError: the name or one of its options is unknown, or an option's value is refused.
    """
    name, written = split_options(text)
    options = {option: _value(value) for option, value in written.items()}
    maker = resolve(kind, name)
    accepted = list(inspect.signature(maker).parameters)
    unknown = [option for option in options if option not in accepted]
    if unknown:
        raise UserError(f"{kind.capitalize()} {name} has no option {unknown[0]!r}: it takes {', '.join(accepted) or 'none'}.")
    try:
        refuse_mistyped(maker, options)
        return maker(**options)
    except UserError:
        raise
    except (ValueError, TypeError) as error:
        raise UserError(f"{kind.capitalize()} {name}: {error}.") from error


def split_options(text: str) -> tuple[str, dict[str, str]]:
    """The name and the options, as they are written, of a command-line form.

    Raises:
        UserError: an option has no value.
    """
    head, _, _ = text.partition("=")
    if head == text or ":" not in head:
        return text, {}
    cut = head.rindex(":")
    options = {}
    for part in text[cut + 1 :].split(","):
        option, equals, value = part.partition("=")
        if not equals:
            raise UserError(f"In {text!r}, {part!r} is not option=value.")
        options[option.strip()] = value
    return text[:cut], options


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def is_file_reference(name: str) -> bool:
    """Whether the name has the form ``file.py:Attribute``."""
    path, colon, attribute = name.rpartition(":")
    return bool(colon) and path.endswith(".py") and attribute.isidentifier()


def load_file_attribute(reference: str) -> Any:
    """Import a user's ``file.py:Attribute``; the file is run, so only files that the user named come here.

    Raises:
        UserError: the file does not exist, does not import, or has no such attribute.
    """
    path_text, _, attribute = reference.rpartition(":")
    path = Path(path_text).expanduser().resolve()
    if not path.is_file():
        raise UserError(f"{path_text} does not exist: name a Python file and a class in it, as in mine.py:MyMixer.")
    module = _import_file(path)
    if not hasattr(module, attribute):
        raise UserError(f"{path_text} has no {attribute!r}: it defines {', '.join(_public_names(module)) or 'nothing public'}.")
    return getattr(module, attribute)


@cache
def _import_file(path: Path) -> Any:
    name = f"assay_user_{path.stem}_{abs(hash(str(path)))}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None  # a .py path always has a spec
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))  # last: a file beside the person's own is found, and hides no library
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise UserError(f"{path} does not import: {type(error).__name__}: {error}; mend the file and try again.") from error
    return module


def _public_names(module: Any) -> list[str]:
    return [name for name, value in vars(module).items() if isinstance(value, type) and value.__module__ == module.__name__]


@cache
def _entry_points(kind: str) -> dict[str, Any]:
    return {point.name: point for point in entry_points(group=f"assay.{kind}")}
