"""`Problem`: positive integers that meet constraints, found by narrowing what each can be and trying what is left.

    problem = Problem()
    rows, columns = problem.variable("rows", high=16, prefer="largest"), problem.variable("columns", values=(8, 16, 32))
    problem.require(rows * columns + columns + 1 <= 96, (rows * columns) % 32 == 0)
    problem.solve()  # [{"rows": 8, "columns": 8}]

Source: Pöppel, Beck, Hochreiter (2024), FlashRNN: Optimizing Traditional RNNs on Modern Hardware (its ConstrINT).
"""

from assay.ops.constraints.domain import Domain
from assay.ops.constraints.expressions import Expression, Variable
from assay.ops.constraints.problem import Problem
from assay.ops.constraints.relations import Constraint
from assay.ops.constraints.text import parse

__all__ = ["Constraint", "Domain", "Expression", "Problem", "Variable", "parse"]
