"""The data plane: reads shards, drives them through the stages and commits each exactly once."""
