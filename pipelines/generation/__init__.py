"""Many long videos over pinned actors: from a user's file to video.mp4, resumable at every segment."""
