"""System calls, typed and thin: the only place of fork, setres*, exec, prctl and PAM."""
