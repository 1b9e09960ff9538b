"""Parts by what they do; every one is a plain ``torch.nn.Module`` (or function) usable alone.

Names resolve on use, so importing one part does not import them all.
"""

from __future__ import annotations

import importlib
from typing import Any

_PARTS = {
    "StreamingMixer": "assay.nn.mixer",
    "ResidualBlock": "assay.nn.block",
    "FeedForward": "assay.nn.channel.feed_forward",
    "SoftmaxAttention": "assay.nn.attention.softmax",
    "UniversalRelativeAttention": "assay.nn.attention.universal_relative",
    "GraphRelativeAttention": "assay.nn.attention.universal_relative",
    "Aaren": "assay.nn.attention.aaren",
    "SigmoidAttention": "assay.nn.attention.sigmoid",
    "LinearAttention": "assay.nn.attention.linear",
    "RandomFeatureAttention": "assay.nn.attention.random_feature",
    "TaylorAttention": "assay.nn.attention.taylor",
    "LocalAttention": "assay.nn.attention.local",
    "SlidingWindowAttention": "assay.nn.attention.sliding_window",
    "BlockSparseAttention": "assay.nn.attention.block_sparse",
    "StridedSparseAttention": "assay.nn.attention.strided_sparse",
    "LowRankAttention": "assay.nn.attention.low_rank",
    "SinkhornAttention": "assay.nn.attention.sinkhorn",
    "SynthesizerAttention": "assay.nn.attention.synthesizer",
    "HopfieldRetrieval": "assay.nn.attention.hopfield",
    "SelectiveAttention": "assay.nn.attention.selective",
    "RowSelectiveAttention": "assay.nn.attention.selective",
    "NGramAttention": "assay.nn.attention.ngram",
    "MinGRU": "assay.nn.recurrent.min_gru",
    "MultiHeadRNN": "assay.nn.recurrent.multi_head",
    "MultiHeadLSTM": "assay.nn.recurrent.multi_head",
    "MultiHeadGRU": "assay.nn.recurrent.multi_head",
    "MultiHeadElman": "assay.nn.recurrent.multi_head",
    "SLSTM": "assay.nn.recurrent.multi_head",
    "MinLSTM": "assay.nn.recurrent.min_gru",
    "LinearRecurrentUnit": "assay.nn.recurrent.linear_recurrent_unit",
    "Retention": "assay.nn.recurrent.retention",
    "GatedLinearAttention": "assay.nn.recurrent.gated_linear_attention",
    "GatedDelta": "assay.nn.recurrent.gated_delta",
    "RWKV4TimeMix": "assay.nn.recurrent.rwkv4",
    "S4D": "assay.nn.state_space.s4d",
    "LSSL": "assay.nn.state_space.lssl",
    "LinearStateSpace": "assay.nn.state_space.linear",
    "set_rate": "assay.nn.state_space.linear",
    "SelectiveStateSpace": "assay.nn.state_space.selective",
    "DiagonalStateSpace": "assay.nn.state_space.diagonal",
    "H3": "assay.nn.state_space.h3",
    "ShortConvolution": "assay.nn.convolution.short",
    "LongConvolution": "assay.nn.convolution.long",
    "BaseConv": "assay.nn.convolution.base",
    "ShortBaseConv": "assay.nn.convolution.base",
    "Hyena": "assay.nn.convolution.hyena",
    "DilatedConvolution": "assay.nn.convolution.dilated",
    "DilatedTCN": "assay.nn.convolution.dilated",
    "receptive_field": "assay.nn.convolution.dilated",
    "choose_tcn": "assay.nn.convolution.dilated",
    "DampedEMA": "assay.nn.recurrent.damped_ema",
    "GatedChunkedAttention": "assay.nn.attention.gated_chunked",
    "Mega": "assay.nn.attention.gated_chunked",
    "TCNCA": "assay.nn.attention.gated_chunked",
    "SimplifiedTCNCA": "assay.nn.attention.gated_chunked",
    "RotaryBias": "assay.nn.position.rotary_bias",
    "MixtureOfExperts": "assay.nn.channel.experts",
    "PolyReLU": "assay.nn.channel.polynomial",
    "PolyNorm": "assay.nn.channel.polynomial",
    "PolynomialComposition": "assay.nn.channel.polynomial",
    "HyperNetworkLinear": "assay.nn.hyper_network",
    "CapsuleRouting": "assay.nn.capsules",
    "LongConvolutionMixer": "assay.nn.convolution.long",
    "LayerScale": "assay.nn.norm",
    "LSTM": "assay.nn.recurrent.reference",
    "GRU": "assay.nn.recurrent.reference",
    "Elman": "assay.nn.recurrent.reference",
    "Jordan": "assay.nn.recurrent.jordan",
    "HistoricalLSTM": "assay.nn.recurrent.historical",
    "OriginalLSTM": "assay.nn.recurrent.historical",
    "PeepholeLSTM": "assay.nn.recurrent.historical",
    "CoupledLSTM": "assay.nn.recurrent.historical",
    "Bidirectional": "assay.nn.recurrent.bidirectional",
    "BidirectionalLSTM": "assay.nn.recurrent.bidirectional",
    "FiniteStateNetwork": "assay.nn.recurrent.finite_state",
    "initialise_recurrent_": "assay.nn.recurrent.initialisation",
    "NeuralTuringMachine": "assay.nn.memory.turing_machine",
    "HopfieldNetwork": "assay.nn.memory.associative",
    "MaskedRecurrentCell": "assay.nn.recurrent.masked",
    "MaskedTanh": "assay.nn.recurrent.masked",
    "MaskedReLU": "assay.nn.recurrent.masked",
    "MaskedGRU": "assay.nn.recurrent.masked",
    "MaskedLSTM": "assay.nn.recurrent.masked",
    "layered_dag": "assay.nn.recurrent.layered",
    "SAFPool2d": "assay.nn.pooling",
    "ScaledResidual": "assay.nn.residual",
    "AdaptivePropagation": "assay.nn.graph.propagation",
    "FixedPropagation": "assay.nn.graph.propagation",
    "EndToEndMemory": "assay.nn.memory.end_to_end",
    "PersistentAttention": "assay.nn.attention.persistent",
    "NeuralMemory": "assay.nn.memory.neural_memory",
    "MemoryAsContext": "assay.nn.memory.titans",
    "MemoryAsGate": "assay.nn.memory.titans",
    "MemoryAsLayer": "assay.nn.memory.titans",
}
__all__ = sorted(_PARTS)


def __getattr__(name: str) -> Any:
    if name not in _PARTS:
        raise AttributeError(f"module 'assay.nn' has no attribute {name!r}")
    return getattr(importlib.import_module(_PARTS[name]), name)


def __dir__() -> list[str]:
    return __all__
