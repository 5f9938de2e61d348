"""Mathematics that several methods, data sets or techniques use: functions of tensors that return tensors."""
