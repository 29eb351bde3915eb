"""Objects told apart pixel by pixel: the weighted U-Net, and the same under deep supervision."""
