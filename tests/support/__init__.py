"""What tests share: small models, quantizing them, and references to compare with. No test imports another test."""
