"""What a person looks at: reports see records and pictures, never tensors."""
