disturb()
return 1
