"""Operations of a layer."""
