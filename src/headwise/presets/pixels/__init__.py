"""Systems that tell something of every pixel: TextSnake's text, the weighted U-Net, deep supervision of any network."""
