"""A linear layer whose matrix stays in four bits a weight: what adapters stand beside.

::

    layer = Quantised.of(nn.Linear(128, 256))       # its codes and scales are buffers: nothing of it learns
    layer(x)

See `kernels.nf4`.

Key: O outputs, I inputs of the matrix
"""

from __future__ import annotations

from torch import Tensor, nn

from exnihilo.kernels import nf4


class Quantised(nn.Module):
    """y = x Wᵀ + b with W from its codes.

    Args:
        weight_OI: what is quantised.
        bias: kept as it is, and frozen.
    """

    codes: Tensor
    scales: Tensor

    def __init__(self, weight_OI: Tensor, bias: Tensor | None = None) -> None:
        super().__init__()
        self.out_features, self.in_features = weight_OI.shape
        codes, scales_OK = nf4.quantise(weight_OI)
        self.register_buffer("codes", codes)
        self.register_buffer("scales", scales_OK)
        self.bias = None if bias is None else nn.Parameter(bias.detach().clone(), requires_grad=False)

    @classmethod
    def of(cls, layer: nn.Linear) -> Quantised:
        """In the place of a plain layer."""
        return cls(layer.weight.detach(), layer.bias)

    @property
    def weight(self) -> Tensor:
        """The matrix that the codes stand for, made anew."""
        return nf4.dequantise(self.codes, self.scales)

    def forward(self, x: Tensor) -> Tensor:
        y = nf4.product(x, self.codes, self.scales)
        return y if self.bias is None else y + self.bias.to(y.dtype)
