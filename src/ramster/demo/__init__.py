"""`ramster demo`: the main job on real input, with every byte checked. One file a part of the story."""
