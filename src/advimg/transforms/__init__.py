"""What may happen to a picture before a network gets it: real changes of PIL pictures, and the gradient's way back."""
