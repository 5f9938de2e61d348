"""O-Net, the last network of MTCNN's face detector, whose pretrained weights are small and freely available.

Zhang, Zhang, Li, Qiao, 2016, "Joint Face Detection and Alignment Using Multi-task Cascaded Convolutional Networks". The
layers have the names of facenet-pytorch's file ``onet.pt``, so that it opens here.
"""

from __future__ import annotations

from torch import Tensor, nn

from framework.errors import UserError


class ONet(nn.Module):
    """Maps colour pictures of 48x48 pixels to the logits of no face and a face.

    The pixels are (x - 127.5) / 128 of bytes. The other two outputs of the network, a box and landmarks, are layers
    here too, but are not computed.

    Args:
        image_size: 48.
        in_chans: 3.
        num_classes: 2.
        drop_rate: Dropout before the head; 0 in the paper.

    Raises:
        UserError: one of the first three is another number.
    """

    def __init__(self, image_size: int = 48, in_chans: int = 3, num_classes: int = 2, drop_rate: float = 0.0) -> None:
        super().__init__()
        for name, found, own in (
            ("image_size", image_size, 48),
            ("in_chans", in_chans, 3),
            ("num_classes", num_classes, 2),
        ):
            if found != own:
                raise UserError(f"{name}: {found} is not accepted by the backbone 'onet'; {own}")
        self.num_classes, self.num_features = num_classes, 256
        self.conv1, self.prelu1, self.pool1 = nn.Conv2d(3, 32, 3), nn.PReLU(32), nn.MaxPool2d(3, 2, ceil_mode=True)
        self.conv2, self.prelu2, self.pool2 = nn.Conv2d(32, 64, 3), nn.PReLU(64), nn.MaxPool2d(3, 2, ceil_mode=True)
        self.conv3, self.prelu3, self.pool3 = nn.Conv2d(64, 64, 3), nn.PReLU(64), nn.MaxPool2d(2, 2, ceil_mode=True)
        self.conv4, self.prelu4 = nn.Conv2d(64, 128, 2), nn.PReLU(128)
        self.dense5, self.prelu5 = nn.Linear(1152, 256), nn.PReLU(256)
        self.dropout = nn.Dropout(drop_rate)
        self.dense6_1, self.dense6_2, self.dense6_3 = nn.Linear(256, 2), nn.Linear(256, 4), nn.Linear(256, 10)

    def get_classifier(self) -> nn.Module:
        """Returns the head of the two logits."""
        return self.dense6_1

    def forward_features(self, x: Tensor) -> Tensor:
        """Maps ``(B, 3, 48, 48)`` to ``(B, 256)``."""
        x = self.pool1(self.prelu1(self.conv1(x)))
        x = self.pool2(self.prelu2(self.conv2(x)))
        x = self.pool3(self.prelu3(self.conv3(x)))
        x = self.prelu4(self.conv4(x))
        return self.prelu5(self.dense5(x.permute(0, 3, 2, 1).flatten(1)))  # the order of the weights' origin

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Maps features to logits ``(B, 2)``, or returns the features with ``pre_logits``."""
        return x if pre_logits else self.dense6_1(self.dropout(x))

    def forward(self, x: Tensor) -> Tensor:
        """Maps pictures to logits ``(B, 2)``: no face, a face."""
        return self.forward_head(self.forward_features(x))
