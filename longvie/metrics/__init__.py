"""How good a long video is: pure functions over frames, depth and tracks, and statistics over many videos.

Frames are uint8 RGB (t, h, w, 3). What a metric cannot say of a frame (a video that stands still has no seams, a flat
frame no visual information) is NaN, never a number that looks like one.

    catalogue.py   each metric's name, and which way is better
    fidelity.py    against the true frames: PSNR, SSIM, MS-SSIM, VIF, LPIPS
    temporal.py    from frame to frame: flickering, warping, seams, motion
    adherence.py   to the controls: depth and tracks measured again in what was made
    statistics.py  the bootstrap over videos, Holm's correction, effect sizes
"""
